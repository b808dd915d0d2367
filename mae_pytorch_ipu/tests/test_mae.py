"""Pretraining as the document has it: its configs' numbers, its model at full size, its update against plain torch."""

import copy
import math
from pathlib import Path

import pytest
import torch

from building import build_autoencoder
from ipu_options import create_program, training_options
from lengths import recipe_of
from models.reconstruction import Reconstruction, mask_noise
from models.supervised import normalised
from optimization import pretraining_optimizer
from options import FinetuneOptions, PretrainOptions
from poptorch_host.backend import poptorch
from pretraining import Pretraining
from run.options import parse
from run.sampling import TrainingStream
from tests.scripts import APP

IMAGENET = 1_281_167
TINY = "--input_size 16 --patch_size 4 --embed_dim 24 --depth 3 --num_heads 3 --mlp_dim 48 --decoder_embed_dim 16"
TINY += " --decoder_depth 2 --decoder_num_heads 2 --pipeline 3 2 --ipus 1 --half false"


def given(words, cls=PretrainOptions, script="main_pretrain.py"):
    return parse(cls, words.split(), configs=APP / "configs.yml", script=script, description="")


def made(options, samples, folder=Path("unused")):
    """The Pretraining of options, without data."""
    network, program = build_autoencoder(options), create_program(options)
    recipe = recipe_of(options, program, samples, network)
    return Pretraining(options, program, recipe, Reconstruction(network, options.mean, options.std), folder)


def batch(size, side, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (size, 3, side, side), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, 2**62, (size,), generator=generator)


@pytest.mark.parametrize(
    ("config", "cls", "script", "expected"),
    [
        ("vit_base_pod16", PretrainOptions, "main_pretrain.py", (6, 172, 4, 4128, 310, 1600, 40, 2.41875e-3)),
        ("vit_base_pod64", PretrainOptions, "main_pretrain.py", (6, 43, 16, 4128, 310, 1600, 40, 2.41875e-3)),
        ("vit_base_finetune", FinetuneOptions, "main_finetune.py", (8, 256, 4, 8192, 156, 100, 5, 1.6e-2)),
    ],
)
def test_numbers_of_the_documents_configs(config, cls, script, expected):
    """Pretraining has the same peak learning rate on 4 and on 16 replicas: it follows from the global batch."""
    micro, accumulation, replicas, global_batch, per_epoch, epochs, warmup, peak = expected
    options = given(f"--config {config}", cls, script)
    program = create_program(options)
    recipe = recipe_of(options, program, IMAGENET, torch.nn.Linear(1, 1))
    assert (program.micro_batch_size, program.gradient_accumulation, program.replicas) == (
        micro,
        accumulation,
        replicas,
    )
    assert (program.ipus, program.precision, options.weight_decay) == (4, "16.16", 0.05)
    assert (recipe.global_batch, recipe.updates_per_epoch) == (global_batch, per_epoch)
    assert (recipe.updates, recipe.warmup_steps) == (per_epoch * epochs, per_epoch * warmup)
    assert recipe.peak_learning_rate == pytest.approx(peak, rel=1e-12)


def test_learning_rates_of_a_run():
    """0 in the first step, the peak after the warm-up, half of it halfway down the cosine, next to nothing at last."""
    training = made(given(f"{TINY} --batch_size 4 --gradient_accumulation_count 1 --replica 1 --epochs 50"), 80)
    peak = 1.5e-4 * 4 / 256
    found = [training.learning_rate(epoch * 20) for epoch in (0, 10, 40, 45)]
    assert found == pytest.approx([0, peak / 4, peak, peak / 2], rel=1e-12)
    assert 0 < training.learning_rate(50 * 20 - 1) < 1e-4 * peak


def test_an_update_is_that_of_plain_torch():
    """Micro-batches of 3, 4 accumulated on 2 replicas, 3 updates, against one batch of 24 and torch.optim.AdamW."""
    words = f"{TINY} --batch_size 3 --gradient_accumulation_count 4 --replica 2 --rts false --lr 0.01 --epochs 2"
    training = made(given(f"{words} --warmup_epochs 0 --loss_scale 1024"), 48)
    plain = copy.deepcopy(training.network)
    decayed = [weight for weight in plain.parameters() if weight.ndim > 1]
    others = [weight for weight in plain.parameters() if weight.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)
    stream = TrainingStream([None] * 48, seed=0, updates=4, global_batch=24)
    for step in range(3):
        images, keys = batch(24, 16, seed=step)
        losses = training.step(step + 1, stream, (images, keys))[0]
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * 0.5 * (1 + math.cos(math.pi * step / 4))
        noise = mask_noise(keys, 16)
        loss = plain(normalised(images, training.options.mean, training.options.std), noise)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert losses.mean().item() == pytest.approx(loss.item(), rel=1e-5)
    training.executor.copyWeightsToHost()
    for (name, ours), theirs in zip(training.network.named_parameters(), plain.parameters()):
        if name.endswith("qkv.bias"):  # softmax cancels the keys' bias: its gradient is rounding, which Adam blows up
            ours, theirs = (torch.cat((bias.chunk(3)[0], bias.chunk(3)[2])) for bias in (ours, theirs))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-6, msg=name)


class TestMAE:
    def test_mae_model(self):
        """mae_vit_base_patch16 in half precision learns one batch; only its trained weights change."""
        words = "--config vit_base_pod16 --batch_size 2 --gradient_accumulation_count 1 --replica 1 --epochs 3"
        options = given(f"{words} --pipeline 12 8 --ipus 1 --lr 1e-4 --warmup_epochs 0 --rts false")
        network = build_autoencoder(options)
        assert sum(weight.numel() for weight in network.parameters()) == 111_655_680
        model = Reconstruction(network, options.mean, options.std)
        tables = network.pos_embed.clone()
        head = network.decoder_pred.weight.detach().clone()
        executor = poptorch.trainingModel(
            model.train(), training_options(options), pretraining_optimizer(model, options)
        )
        losses = [executor(*batch(2, 224)).item() for _ in range(3)]
        executor.copyWeightsToHost()
        assert 1 < losses[0] < 3  # targets have variance 1, first predictions some of their own
        assert losses[2] < losses[1] < losses[0]
        assert torch.equal(network.pos_embed, tables)
        assert not torch.equal(network.decoder_pred.weight, head)
