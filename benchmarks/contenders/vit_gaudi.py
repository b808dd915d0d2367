"""ViT-B/16 training: ours through vit_pytorch_gaudi's step, timm's and transformers' with either attention."""

from __future__ import annotations

import timm
from timm.layers import set_fused_attn
from transformers import AutoModelForImageClassification, ViTConfig

from benchmarks.contenders.common import CLASSES, Step, classifier_step, images_and_labels, plain_step
from benchmarks.side_by_side import Settings

CONTENDERS = ["ours", "timm_explicit", "timm_fused", "transformers_eager"]


def timm_explicit(settings: Settings) -> Step:
    """timm with attention in plain operations."""
    set_fused_attn(False)
    return classifier_step(timm.create_model("vit_base_patch16_224", img_size=settings.image_size), settings)


def timm_fused(settings: Settings) -> Step:
    """timm with scaled_dot_product_attention, its default."""
    set_fused_attn(True)
    return classifier_step(timm.create_model("vit_base_patch16_224", img_size=settings.image_size), settings)


def transformers_eager(settings: Settings) -> Step:
    """transformers with attention in plain operations."""
    config = ViTConfig(image_size=settings.image_size)
    config.num_labels = CLASSES
    network = AutoModelForImageClassification.from_config(config, attn_implementation="eager")
    images, labels = images_and_labels(settings)
    inputs, targets = (images / 127.5 - 1).to(settings.device), labels.to(settings.device)
    return plain_step(network, lambda model: model(pixel_values=inputs, labels=targets).loss, settings)
