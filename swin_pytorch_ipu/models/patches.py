"""Patches of an image to tokens, and four tokens to one (Liu et al. 2021, arXiv:2103.14030, section 3.1).

Shape letters: B batch, H and W rows and columns of a map, D its width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from models.swin_config import SwinConfig


class PatchEmbedding(nn.Module):
    """Images (B, channels, height, width) -> maps (B, H, W, D), a convolution and a LayerNorm."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.size = config.image_size
        self.patch = config.patch_size
        self.proj = nn.Conv2d(config.in_channels, config.embed_dim, self.patch, stride=self.patch)
        norm = nn.LayerNorm(config.embed_dim, eps=config.layer_norm_eps)
        self.norm = norm if config.patch_norm else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Embed normalised images; a rest below or on the right is filled up with zeros."""
        if images.shape[-2:] != self.size:
            given, wanted = ("%d×%d" % tuple(size) for size in (images.shape[-2:], self.size))
            raise ValueError(f"the model is built for images of {wanted}, not {given}: create it with their image_size")
        below, right = (-side % self.patch for side in self.size)
        if below or right:
            images = F.pad(images, (0, right, 0, below))
        return self.norm(self.proj(images).permute(0, 2, 3, 1))  # (B, D, H, W) -> (B, H, W, D)


class PatchMerging(nn.Module):
    """Joins 2×2 neighbours to one token of twice the width, (B, H, W, D) -> (B, H/2, W/2, 2·D)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width, eps=eps)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Halve the map's sides, an odd one after a row or column of zeros is put to it."""
        batch, rows, columns, width = x.shape
        if rows % 2 or columns % 2:
            x = F.pad(x, (0, 0, 0, columns % 2, 0, rows % 2))
        x = x.reshape(batch, (rows + 1) // 2, 2, (columns + 1) // 2, 2, width)
        x = x.permute(0, 1, 3, 4, 2, 5).flatten(3)  # upper left, lower left, upper right, lower right
        return self.reduction(self.norm(x))
