"""MAE ViT-B/16 pretraining: ours through the app's executor, transformers'. Inference is the loss of each image."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForPreTraining, ViTMAEConfig

from benchmarks.contenders.common import (
    Images,
    built,
    compiled,
    enter,
    fuses_attention,
    images_and_labels,
    matmul,
    peer,
    variants,
)
from benchmarks.interleaved import Built, Settings

# The document's recipe on one replica, with the exact GELU that transformers has.
OPTIONS = ["--config", "vit_base_pod16", "--gelu_type", "erf", "--generated_data", "--epochs", "1000"]
OPTIONS += ["--gradient_accumulation_count", "1", "--replica", "1", "--pipeline", "12", "8", "--ipus", "1"]
HALF = {"bf16": "true", "fp32": "false"}


def ours(settings: Settings) -> Built:
    """The app's own step: uint8 images, normalised on the device, masks from keys, checked before the update."""
    enter("mae_pytorch_ipu")
    from building import build_autoencoder
    from ipu.evaluation import Evaluator
    from ipu_options import create_program, evaluation_program
    from lengths import recipe_of
    from models.reconstruction import Reconstruction
    from options import PretrainOptions
    from pretraining import Pretraining, count_reconstructed
    from run.options import parse
    from run.sampling import TrainingStream

    words = [*OPTIONS, "--batch_size", str(settings.batch_size), "--input_size", str(settings.image_size)]
    words += ["--half", HALF[settings.dtype]]
    options = parse(PretrainOptions, words, configs=Path("configs.yml"), script="main_pretrain.py", description="")
    network, program = build_autoencoder(options), create_program(options)
    model = Reconstruction(network, options.mean, options.std)
    batch = images_and_labels(settings)[0], torch.randint(2**62, (settings.batch_size,))
    if settings.mode == "inference":
        data, own = Images(settings.batch_size), evaluation_program(options)
        evaluator = Evaluator(own, model.eval(), data, counted=count_reconstructed, takes_labels=True)
        return built(lambda: evaluator.executor(*batch), network.parameters())
    recipe = recipe_of(options, program, settings.batch_size, network)
    training = Pretraining(options, program, recipe, model, Path(options.output))  # nothing is written: no save
    stream = TrainingStream(batch[1], seed=0, updates=recipe.updates, global_batch=program.global_batch)
    steps = count(1)
    return built(lambda: training.step(next(steps), stream, batch)[0], network.parameters())


def _transformers(settings: Settings, variant: str) -> Built:
    """transformers', with scaled_dot_product_attention as shipped."""
    config = ViTMAEConfig(norm_pix_loss=True, image_size=settings.image_size)
    attention = "sdpa" if fuses_attention(settings, variant) else "eager"
    network = AutoModelForPreTraining.from_config(config, attn_implementation=attention)
    inputs = (images_and_labels(settings)[0] / 127.5 - 1).to(settings.device)

    def forward(model: nn.Module) -> Tensor:
        value: Tensor = model(pixel_values=inputs).loss
        return value

    return peer(network, forward, lambda value: value, settings, variant)


CONTENDERS = {
    "ours": ours,
    "ours_compiled": compiled(ours),
    **variants("transformers", _transformers),
    "matmul": matmul,
}
