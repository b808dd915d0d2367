"""Geometry of attention in shifted windows (Liu et al. 2021, arXiv:2103.14030, section 3.2).

A map is padded below and on the right until windows tile it, rolled up and to the left by the shift, and cut. Windows
at the end then hold tokens that were no neighbours before the roll, and padding: a mask keeps these apart.

Shape letters: B batch, H and W rows and columns of a map, padded ones Hp and Wp, D width, nH and nW windows along
them, h and w sides of a window, N = h·w its tokens, G heads, E = D/G.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

APART = -100.0  # added to the scores of tokens that don't attend to each other; finite in every type


@dataclass(frozen=True)
class Windows:
    """How a map of `resolution` is cut into windows. All fields are (along the height, along the width)."""

    resolution: Tuple[int, int]
    window: Tuple[int, int]
    shift: Tuple[int, int]

    @property
    def counts(self) -> Tuple[int, int]:
        """Number of windows."""
        return -(-self.resolution[0] // self.window[0]), -(-self.resolution[1] // self.window[1])

    @property
    def padding(self) -> Tuple[int, int]:
        """Rows and columns that the map lacks to be tiled by windows."""
        rows, columns = (count * side for count, side in zip(self.counts, self.window))
        return rows - self.resolution[0], columns - self.resolution[1]


def windows_of(resolution: Tuple[int, int], window: Tuple[int, int], shifted: bool) -> Windows:
    """Windows of a block; a side that one window covers becomes the window's, and isn't shifted.

    Args:
        resolution: rows and columns of the map.
        window: the largest window.
        shifted: whether the block is one of those that shift, by half a window.
    """
    fitted = min(window[0], resolution[0]), min(window[1], resolution[1])
    wanted = [side // 2 if shifted and length > side else 0 for side, length in zip(fitted, resolution)]
    return Windows(resolution, fitted, (wanted[0], wanted[1]))


def relative_position_index(window: Tuple[int, int]) -> Tensor:
    """Row of the bias table for each query and key of a window, (N, N) int64.

    Rows count the offset query - key, from (1 - h, 1 - w) to (h - 1, w - 1), columns fastest.
    """
    rows, columns = (torch.arange(side) for side in window)
    down = rows[:, None] - rows + window[0] - 1  # (h, h)
    right = columns[:, None] - columns + window[1] - 1  # (w, w)
    index = down[:, None, :, None] * (2 * window[1] - 1) + right[None, :, None, :]  # (h, w, h, w)
    return index.reshape(window[0] * window[1], -1)


def attention_mask(windows: Windows) -> Tensor:
    """0 where tokens of a window may attend to each other, APART elsewhere, (nH·nW, N, N) float32.

    Tokens belong together if both or neither came around an edge in the roll, and both or neither are padding.
    """
    sides = zip(windows.resolution, windows.window, windows.shift, windows.counts)
    down, right = (_regions(*side) for side in sides)  # (nH, h) and (nW, w)
    regions = down[:, None, :, None] * 4 + right[None, :, None, :]  # (nH, nW, h, w)
    regions = regions.reshape(-1, windows.window[0] * windows.window[1])
    apart = regions[:, :, None] != regions[:, None, :]
    return torch.zeros(apart.shape).masked_fill(apart, APART)


def _regions(length: int, side: int, shift: int, count: int) -> Tensor:
    """A label below 4 for each place along an axis of the padded and rolled map, (count, side)."""
    places = torch.arange(count * side).roll(-shift)
    return ((places < shift).long() + 2 * (places >= length).long()).reshape(count, side)


def shift(x: Tensor, windows: Windows) -> Tensor:
    """Pad a map and roll it up and to the left, (B, H, W, D) -> (B, Hp, Wp, D)."""
    below, right = windows.padding
    if below or right:
        x = F.pad(x, (0, 0, 0, right, 0, below))
    return _roll(x, (-windows.shift[0], -windows.shift[1]))


def unshift(x: Tensor, windows: Windows) -> Tensor:
    """Undo `shift`, (B, Hp, Wp, D) -> (B, H, W, D)."""
    rows, columns = windows.resolution
    return _roll(x, windows.shift)[:, :rows, :columns]


def _roll(x: Tensor, steps: Tuple[int, int]) -> Tensor:
    moved = [axis for axis in (0, 1) if steps[axis]]
    return x.roll([steps[axis] for axis in moved], [axis + 1 for axis in moved]) if moved else x


def split_heads(x: Tensor, windows: Windows, heads: int) -> Tensor:
    """Tokens of each window and head, (B, Hp, Wp, D) -> (B, nH·nW·G, N, E)."""
    (down, right), (h, w) = windows.counts, windows.window
    x = x.reshape(-1, down, h, right, w, heads, x.shape[-1] // heads).permute(0, 1, 3, 5, 2, 4, 6)
    return x.reshape(-1, down * right * heads, h * w, x.shape[-1])  # of (B, nH, nW, G, h, w, E)


def join_heads(x: Tensor, windows: Windows, heads: int) -> Tensor:
    """Undo `split_heads`, (B, nH·nW·G, N, E) -> (B, Hp, Wp, D)."""
    (down, right), (h, w) = windows.counts, windows.window
    x = x.reshape(-1, down, right, heads, h, w, x.shape[-1]).permute(0, 1, 4, 2, 5, 3, 6)  # (B, nH, h, nW, w, G, E)
    return x.reshape(-1, down * h, right * w, heads * x.shape[-1])
