"""Learning rates and parameter groups of the recipes, in numbers."""

from pathlib import Path

import pytest
import torch

from ipu.training import set_learning_rate
from ipu_options import create_program
from models import create_model
from optimization import (
    finetuning_optimizer,
    layer_of,
    layer_wise_groups,
    learning_rate,
    peak_learning_rate,
    pretraining_groups,
    pretraining_optimizer,
)
from options import FinetuneOptions, LinprobeOptions, PretrainOptions
from poptorch_host.backend import poptorch
from run.options import parse

CONFIGS = Path(__file__).resolve().parent.parent / "configs.yml"
SIZES = {"width": 16, "heads": 2, "mlp_width": 32, "patch_size": 8}


def configured(config, *words):
    """Options of an entry, and the script that it is for."""
    kind, script = PretrainOptions, "main_pretrain.py"
    if "finetune" in config or "scratch" in config:
        kind, script = FinetuneOptions, "main_finetune.py"
    elif "linprobe" in config:
        kind, script = LinprobeOptions, "main_linprobe.py"
    return parse(kind, ["--config", config, *words], configs=CONFIGS, script=script, description="")


@pytest.mark.parametrize(
    ("config", "batch", "steps", "peak"),
    [
        ("vit_base_pod16", 4128, 310, 2.41875e-3),
        ("vit_base_pod64", 4128, 310, 2.41875e-3),  # of the whole batch, not of one host's quarter
        ("vit_base_finetune", 8192, 156, 1.6e-2),
        ("vit_large_finetune", 1024, 1251, 4e-3),
        ("vit_huge_finetune", 1024, 1251, 4e-3),
        ("vit_base_linprobe", 16384, 78, 6.4),
        ("vit_large_linprobe", 16384, 78, 6.4),
        ("vit_huge_linprobe", 16384, 78, 6.4),
    ],
)
def test_batches_and_peaks_of_the_published_recipes(config, batch, steps, peak):
    options = configured(config)
    program = create_program(options)
    assert program.global_batch == batch
    assert 1_281_167 // program.global_batch == steps
    assert peak_learning_rate(options, program.global_batch) == pytest.approx(peak)
    assert peak_learning_rate(configured(config, "--lr", "0.25"), program.global_batch) == 0.25


@pytest.mark.parametrize(
    ("epoch", "expected"),
    # Warm-up over 40 of 1,600 epochs, then half a cosine; in fractions of the peak.
    [(0, 0.0), (1 / 310, 1 / 12400), (20, 0.5), (40, 1.0), (430, 0.5 + 0.125**0.5), (820, 0.5), (1600, 0.0)],
)
def test_schedule_of_pretraining(epoch, expected):
    options = configured("vit_base_pod16")
    assert learning_rate(options, 2.0, epoch) == pytest.approx(2 * expected, abs=1e-12)


def test_the_schedule_ends_at_its_floor_and_stays_there():
    options = configured("vit_base_finetune")
    assert learning_rate(options, 1.6e-2, 0) == 0
    assert learning_rate(options, 1.6e-2, 5) == pytest.approx(1.6e-2)
    assert learning_rate(options, 1.6e-2, 52.5) == pytest.approx((1.6e-2 + 1e-6) / 2)
    assert learning_rate(options, 1.6e-2, 100) == learning_rate(options, 1.6e-2, 101) == pytest.approx(1e-6)
    without = FinetuneOptions(config="test", warmup_epochs=0, epochs=2, lr=1.0)
    assert learning_rate(without, 1.0, 0) == 1.0
    all_warm = FinetuneOptions(config="test", warmup_epochs=4, epochs=2, lr=1.0)
    assert learning_rate(all_warm, 1.0, 1) == 0.25


def test_layers_of_names():
    layers = {"cls_token": 0, "pos_embed": 0, "patch_embed.proj.weight": 0, "blocks.0.norm1.bias": 1}
    layers.update({"blocks.11.mlp.fc2.weight": 12, "fc_norm.weight": 13, "norm.bias": 13, "head.weight": 13})
    assert {name: layer_of(name, 12) for name in layers} == layers


def test_learning_rates_fall_from_layer_to_layer():
    model = create_model("vit_base_patch16", image_size=32, num_classes=3, depth=12, **SIZES)
    groups = layer_wise_groups(model, 0.05, 0.65)
    scales = {}
    for group in groups:
        for name, weight in model.named_parameters():
            if any(weight is held for held in group["params"]):
                assert name not in scales
                scales[name] = group["lr_scale"]
    assert scales.keys() == dict(model.named_parameters()).keys()
    expected = {"cls_token": 0.00370, "pos_embed": 0.00370, "patch_embed.proj.weight": 0.00370}
    expected.update({"blocks.0.attn.qkv.weight": 0.00569, "blocks.11.norm2.bias": 0.65, "head.weight": 1.0})
    assert {name: scales[name] for name in expected} == pytest.approx(expected, rel=2e-3)
    assert scales["fc_norm.weight"] == 1.0


def test_weight_decay_of_fine_tuning():
    model = create_model("vit_base_patch16", image_size=32, num_classes=3, depth=2, **SIZES)
    names = {id(weight): name for name, weight in model.named_parameters()}
    groups = layer_wise_groups(model, 0.05, 0.75)
    plain = {names[id(weight)] for group in groups for weight in group["params"] if group["weight_decay"] == 0}
    decayed = {names[id(weight)] for group in groups for weight in group["params"] if group["weight_decay"] == 0.05}
    assert plain | decayed == set(names.values())
    assert {"cls_token", "pos_embed", "head.bias", "blocks.1.norm1.weight"} <= plain
    assert decayed == {name for name in names.values() if name.endswith("weight") and "norm" not in name}


def test_weight_decay_of_pretraining():
    sizes = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2, "decoder_mlp_width": 32}
    model = create_model("mae_vit_base_patch16", image_size=32, depth=2, **SIZES, **sizes)
    names = {id(weight): name for name, weight in model.named_parameters()}
    decayed, plain = ({names[id(weight)] for weight in group["params"]} for group in pretraining_groups(model, 0.05))
    assert decayed | plain == set(names.values())
    assert not decayed & plain
    assert {"cls_token", "mask_token", "decoder_pred.weight", "patch_embed.proj.weight"} <= decayed
    assert plain == {name for name in names.values() if name.endswith("bias") or "norm" in name}


def small(**changes):
    return FinetuneOptions(config="test", loss_scale=8.0, **changes)


def test_optimizers_have_their_recipes_settings():
    model = create_model("vit_base_patch16", image_size=32, num_classes=3, depth=2, **SIZES)
    optimizer = finetuning_optimizer(model, small(half=True, clip_grad=2.5))
    assert isinstance(optimizer, poptorch.optim.AdamW)
    assert {tuple(group["betas"]) for group in optimizer.param_groups} == {(0.9, 0.999)}
    assert (optimizer.loss_scaling, optimizer.max_grad_norm) == (8.0, 2.5)
    assert optimizer.accum_type == torch.float32
    assert finetuning_optimizer(model, small()).max_grad_norm == float("inf")
    sizes = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2, "decoder_mlp_width": 32}
    autoencoder = create_model("mae_vit_base_patch16", image_size=32, depth=2, **SIZES, **sizes)
    pretraining = pretraining_optimizer(autoencoder, PretrainOptions(config="test", half=True))
    assert {tuple(group["betas"]) for group in pretraining.param_groups} == {(0.9, 0.95)}
    assert pretraining.accum_type == torch.float16


def test_scales_of_layers_reach_the_rates_and_survive_a_checkpoint():
    model = create_model("vit_base_patch16", image_size=32, num_classes=3, depth=2, **SIZES)
    optimizer = finetuning_optimizer(model, small(layer_decay=0.5))
    again = finetuning_optimizer(model, small(layer_decay=1.0))
    again.load_state_dict(optimizer.state_dict())
    for each in (optimizer, again):
        set_learning_rate(each, 0.8)
        assert sorted({round(group["lr"], 12) for group in each.param_groups}) == [0.1, 0.2, 0.4, 0.8]
