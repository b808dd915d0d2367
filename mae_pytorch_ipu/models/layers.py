"""The parts that the autoencoder and the classifier share (Dosovitskiy et al. 2020, arXiv:2010.11929).

Modules carry the names that published MAE and timm checkpoints have.

Shape letters: B batch, N tokens, D width, H heads, M width of the MLP, p patch side, c channels.
"""

from __future__ import annotations

import math
from typing import Iterable, Tuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import attend
from models.drop_path import DropPath

GELUS = ("erf", "tanh")


def gelu(x: Tensor, kind: str) -> Tensor:
    """x·Φ(x), exact ("erf") or by the tanh formula ("tanh"); the two differ by at most 4.8e-4.

    Devices that trace, such as an IPU, take torch's exact GELU for the tanh one; there it is written out.
    """
    if kind == "erf" and x.device.type not in ("cpu", "cuda"):
        return x * 0.5 * (1.0 + torch.erf(x * math.sqrt(0.5)))
    return F.gelu(x, approximate="none" if kind == "erf" else "tanh")


class PatchEmbedding(nn.Module):
    """Linear map of patches as `patchify` lays them out, (B, N, p·p·c) -> (B, N, D).

    Its weight is that of the convolution with kernel and stride p which published checkpoints hold. Taking patches
    rather than images, it can be given the visible ones alone.
    """

    def __init__(self, channels: int, width: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch_size, stride=patch_size)

    def forward(self, patches: Tensor) -> Tensor:
        """Tokens of patches, in the weight's dtype."""
        weight = self.proj.weight.permute(0, 2, 3, 1).flatten(1)  # (D, c, p, p) -> (D, p·p·c)
        return F.linear(patches.to(weight.dtype), weight, self.proj.bias)


class Attention(nn.Module):
    """Multi-head self-attention, (B, N, D) -> (B, N, D); one product makes queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def project(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Queries, keys and values, (B, N, D) -> three (B, H, N, D/H)."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        return qkv.permute(2, 0, 3, 1, 4).unbind(0)

    def forward(self, x: Tensor) -> Tensor:
        """Let every token gather from all others."""
        x = attend(*self.project(x))
        return self.proj(x.transpose(1, 2).flatten(2))  # (B, H, N, D/H) -> (B, N, D)


class Mlp(nn.Module):
    """Two linear layers with a GELU between them, (B, N, D) -> (B, N, M) -> (B, N, D)."""

    def __init__(self, width: int, hidden: int, kind: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        """Transform each token by itself."""
        return self.fc2(gelu(self.fc1(x), self.kind))


class Block(nn.Module):
    """Transformer layer, (B, N, D) -> (B, N, D): attention, then MLP, each behind a LayerNorm in a residual."""

    def __init__(self, width: int, heads: int, hidden: int, eps: float, kind: str, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, hidden, kind)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Apply both branches."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def run_blocks(blocks: nn.ModuleList, x: Tensor) -> Tensor:
    """Apply blocks one after the other, (B, N, D) -> (B, N, D)."""
    for block in cast(Iterable[Block], blocks):
        x = block(x)
    return x
