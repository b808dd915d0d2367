"""What contenders share: data, the peers' training step, the apps' folders."""

from __future__ import annotations

import os
import sys
from typing import Any, Callable, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.side_by_side import ROOT, Settings

Step = Callable[[], Any]
CLASSES = 1000


def enter(app: str) -> None:
    """Make the modules of `app` importable, as when its scripts run."""
    os.chdir(ROOT / app)
    sys.path.insert(0, str(ROOT / app))


def images_and_labels(settings: Settings) -> Tuple[Tensor, Tensor]:
    """A batch of uint8 pixels (B, 3, H, W) and labels (B,)."""
    shape = (settings.batch_size, 3, settings.image_size, settings.image_size)
    return torch.randint(0, 256, shape, dtype=torch.uint8), torch.randint(CLASSES, (settings.batch_size,))


def plain_step(model: nn.Module, loss: Callable[[nn.Module], Tensor], settings: Settings) -> Step:
    """A peer's step as one writes it: bfloat16 autocast and fused AdamW."""
    model.to(settings.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05, fused=True)

    def step() -> float:
        with torch.autocast(settings.device, torch.bfloat16):
            value = loss(model)
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return value.item()

    return step


def classifier_step(model: nn.Module, settings: Settings) -> Step:
    """`plain_step` of a classifier on normalised float images, which lie on the device already."""
    images, labels = images_and_labels(settings)
    inputs, targets = (images / 127.5 - 1).to(settings.device), labels.to(settings.device)
    return plain_step(model, lambda module: F.cross_entropy(module(inputs).float(), targets), settings)
