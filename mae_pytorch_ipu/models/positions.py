"""Fixed two-dimensional sine-cosine positions (Vaswani et al. 2017, arXiv:1706.03762, for rows and columns)."""

from __future__ import annotations

from typing import Tuple

import torch
import torch.nn.functional as F
from torch import Tensor


def sine_cosine_table(width: int, grid: Tuple[int, int]) -> Tensor:
    """Positions of the class token, zeros, and of a grid of patches, row by row; float32 (1, 1 + P, width).

    The patch in row y and column x has [sin(x·ω), cos(x·ω), sin(y·ω), cos(y·ω)] with ω = 10000^(-k / q), where
    k = 0 … q - 1 and q = width / 4. Published MAE checkpoints depend on this order.

    Args:
        width: of a token, a multiple of 4.
        grid: rows and columns of patches.
    """
    quarter = width // 4
    if quarter * 4 != width:
        raise ValueError(f"sine-cosine positions need a width that is a multiple of 4, not {width}: change it")
    frequencies = 10000.0 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    rows, columns = (torch.arange(side, dtype=torch.float64) for side in grid)
    by_column = (columns[:, None] * frequencies).expand(len(rows), -1, -1)  # (w, q) -> (h, w, q)
    by_row = (rows[:, None] * frequencies)[:, None].expand(-1, len(columns), -1)  # (h, q) -> (h, w, q)
    parts = (by_column.sin(), by_column.cos(), by_row.sin(), by_row.cos())
    table = torch.cat(parts, dim=-1).reshape(1, -1, width)  # (h, w, 4·q) -> (1, P, D)
    return torch.cat((torch.zeros_like(table[:, :1]), table), dim=1).float()


def resize_table(positions: Tensor, old: Tuple[int, int], new: Tuple[int, int]) -> Tensor:
    """Positions of another grid by bicubic interpolation, (1, 1 + old patches, D) -> (1, 1 + new patches, D).

    The class token's position, the first, stays. `old` and `new` are rows and columns of patches.
    """
    token, table = positions[:, :1], positions[:, 1:].float()
    table = table.reshape(1, *old, -1).permute(0, 3, 1, 2)  # (1, P, D) -> (1, D, rows, columns)
    table = F.interpolate(table, size=new, mode="bicubic", align_corners=False)
    return torch.cat((token, table.flatten(2).transpose(1, 2).to(token.dtype)), dim=1)
