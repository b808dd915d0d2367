"""Stochastic depth (Huang et al. 2016, arXiv:1603.09382)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class DropPath(nn.Module):
    """Drops whole samples in training and scales up the rest."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """`x` with samples zeroed in training, unchanged otherwise."""
        if not self.training or self.probability == 0:
            return x
        # Dropout of a one per sample is the whole of it, and every device that can drop out can run it.
        return x * F.dropout(x.new_ones((x.shape[0],) + (1,) * (x.ndim - 1)), self.probability)
