"""Swin-T training: ours through the app's executor, timm's with either attention, torchvision's."""

from __future__ import annotations

import timm
import torchvision
from timm.layers import set_fused_attn

from benchmarks.contenders.common import Step, classifier_step
from benchmarks.side_by_side import Settings

CONTENDERS = ["ours", "timm_explicit", "timm_fused", "torchvision_explicit"]


def timm_explicit(settings: Settings) -> Step:
    """timm with attention in plain operations, its default."""
    set_fused_attn(False)
    return classifier_step(timm.create_model("swin_tiny_patch4_window7_224", img_size=settings.image_size), settings)


def timm_fused(settings: Settings) -> Step:
    """timm with scaled_dot_product_attention."""
    set_fused_attn(True, experimental=True)
    return classifier_step(timm.create_model("swin_tiny_patch4_window7_224", img_size=settings.image_size), settings)


def torchvision_explicit(settings: Settings) -> Step:
    """torchvision, which has plain operations only."""
    return classifier_step(torchvision.models.swin_t(), settings)
