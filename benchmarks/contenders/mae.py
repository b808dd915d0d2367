"""MAE ViT-B/16 pretraining: ours through the app's executor, transformers' with either attention."""

from __future__ import annotations

from transformers import AutoModelForPreTraining, ViTMAEConfig

from benchmarks.contenders.common import Step, images_and_labels, plain_step
from benchmarks.side_by_side import Settings

CONTENDERS = ["ours", "transformers_eager", "transformers_sdpa"]


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
