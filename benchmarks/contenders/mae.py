"""MAE ViT-B/16 pretraining: ours through the app's executor, transformers' with either attention."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import torch
from transformers import AutoModelForPreTraining, ViTMAEConfig

from benchmarks.contenders.common import Step, enter, images_and_labels, plain_step
from benchmarks.side_by_side import Settings

# The document's recipe on one replica, with the exact GELU that transformers has.
OPTIONS = ["--config", "vit_base_pod16", "--gelu_type", "erf", "--generated_data", "--epochs", "1000"]
OPTIONS += ["--gradient_accumulation_count", "1", "--replica", "1", "--pipeline", "12", "8", "--ipus", "1"]
CONTENDERS = ["ours", "transformers_eager", "transformers_sdpa"]


def ours(settings: Settings) -> Step:
    """The app's own step: uint8 images, normalised on the device, masks from keys, bfloat16, checked before updates."""
    enter("mae_pytorch_ipu")
    from building import build_autoencoder
    from ipu_options import create_program
    from lengths import recipe_of
    from models.reconstruction import Reconstruction
    from options import PretrainOptions
    from pretraining import Pretraining
    from run.options import parse
    from run.sampling import TrainingStream

    words = [*OPTIONS, "--batch_size", str(settings.batch_size), "--input_size", str(settings.image_size)]
    options = parse(PretrainOptions, words, configs=Path("configs.yml"), script="main_pretrain.py", description="")
    network, program = build_autoencoder(options), create_program(options)
    recipe = recipe_of(options, program, settings.batch_size, network)
    model = Reconstruction(network, options.mean, options.std)
    training = Pretraining(options, program, recipe, model, Path(options.output))  # nothing is written: no save
    batch = images_and_labels(settings)[0], torch.randint(2**62, (settings.batch_size,))
    stream = TrainingStream(batch[1], seed=0, updates=recipe.updates, global_batch=program.global_batch)
    steps = count(1)
    return lambda: training.step(next(steps), stream, batch)[0].tolist()


def _transformers(settings: Settings, attention: str) -> Step:
    config = ViTMAEConfig(norm_pix_loss=True, image_size=settings.image_size)
    network = AutoModelForPreTraining.from_config(config, attn_implementation=attention)
    inputs = (images_and_labels(settings)[0] / 127.5 - 1).to(settings.device)
    return plain_step(network, lambda model: model(pixel_values=inputs).loss, settings)


def transformers_eager(settings: Settings) -> Step:
    """transformers with attention in plain operations."""
    return _transformers(settings, "eager")


def transformers_sdpa(settings: Settings) -> Step:
    """transformers with scaled_dot_product_attention, its default."""
    return _transformers(settings, "sdpa")
