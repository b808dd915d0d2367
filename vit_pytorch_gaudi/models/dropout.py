"""Dropout: torch's own, and one for CPUs, where drawing torch's mask takes a tenth of a training step."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEVELS = 2**16


def dropout_by_bits(x: Tensor, probability: float) -> Tensor:
    """Drop elements of `x` and scale up the rest, with 16 random bits for each: half of torch's time on a CPU.

    The probability is rounded to a 65,536th, and the scale goes with it, so the mean stays.
    """
    dropped = min(round(probability * _LEVELS), _LEVELS - 1)
    words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64, device=x.device).random_(-(2**63), None)
    bits = words.view(torch.int16)[: x.numel()].view(x.shape)
    return x * (bits >= dropped - _LEVELS // 2).to(x.dtype).mul_(_LEVELS / (_LEVELS - dropped))


class Dropout(nn.Module):
    """Dropout by whichever of the two is faster; compilers know torch's best."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """`x` with elements dropped in training, unchanged otherwise."""
        if not self.training or self.probability == 0:
            return x
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            return dropout_by_bits(x, self.probability)
        return F.dropout(x, self.probability)
