"""Which patches the encoder sees (He et al. 2021, arXiv:2111.06377, section 3), as indices and as a one-hot matrix.

`select` and `one_hot` also take the noise of a single sample, without the B, as a data set has it.

Shape letters: B batch, P patches, V visible patches, D width.
"""

from __future__ import annotations

from typing import NamedTuple, Optional, Union

import torch
from torch import Tensor


class Selection(NamedTuple):
    """Indices of the visible patches (B, V) and of the masked ones (B, P - V), int64; mask (B, P), 1.0 where masked."""

    visible: Tensor
    masked: Tensor
    mask: Tensor

    def take(self, x: Tensor) -> Tensor:
        """The visible ones of all tokens, (B, P, D) -> (B, V, D)."""
        return gather(x, self.visible)

    def put_back(self, x: Tensor, filler: Tensor) -> Tensor:
        """Visible tokens at their places and `filler` (1, 1, D) everywhere else, (B, V, D) -> (B, P, D)."""
        dtype = torch.promote_types(x.dtype, filler.dtype)  # autocast may have rounded the tokens, but not the filler
        places = self.visible[..., None].expand(-1, -1, x.shape[-1])
        return filler.to(dtype).expand(*self.mask.shape, -1).scatter(-2, places, x.to(dtype))


class MatrixSelection(NamedTuple):
    """The same as matrix products, which some devices do faster: `keep` is the (B, P, V) of `one_hot`.

    Results have the same bits as long as all is finite. One Inf or NaN reaches every token here, since 0·Inf is NaN,
    so take indices where gathers are cheap.
    """

    keep: Tensor

    @property
    def mask(self) -> Tensor:
        """(B, P), 1.0 where masked, float32."""
        return 1.0 - self.keep.float().sum(dim=-1)

    def take(self, x: Tensor) -> Tensor:
        """The visible ones of all tokens, (B, P, D) -> (B, V, D)."""
        return self.keep.transpose(-2, -1).to(x.dtype) @ x

    def put_back(self, x: Tensor, filler: Tensor) -> Tensor:
        """Visible tokens at their places and `filler` (1, 1, D) everywhere else, (B, V, D) -> (B, P, D)."""
        return self.keep.to(x.dtype) @ x + self.mask[..., None].to(filler.dtype) * filler


def count_visible(patches: int, mask_ratio: float) -> int:
    """Patches that stay visible: P·(1 - ratio), rounded down as published MAE does."""
    return int(patches * (1 - mask_ratio))


def draw_noise(
    batch: int,
    patches: int,
    *,
    generator: Optional[torch.Generator] = None,
    device: Union[torch.device, str, None] = None,
) -> Tensor:
    """Uniform float32 noise (B, P) that decides masks, drawn on the device."""
    return torch.rand(batch, patches, generator=generator, device=device, dtype=torch.float32)


def select(noise: Tensor, visible: int) -> Selection:
    """Make the V patches with the smallest noise (B, P) visible, in ascending order of it."""
    order = noise.argsort(dim=-1, stable=True)  # the one sort there is
    seen, hidden = order[..., :visible], order[..., visible:]
    mask = torch.ones_like(noise, dtype=torch.float32).scatter(-1, seen, 0.0)
    return Selection(seen, hidden, mask)


def one_hot(noise: Tensor, visible: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Matrix (B, P, V) that is 1 where patch p is visible patch v of `select`, 0 elsewhere; for MatrixSelection."""
    seen = select(noise, visible).visible
    patches = torch.arange(noise.shape[-1], device=noise.device)
    return (patches[:, None] == seen[..., None, :]).to(dtype)


def gather(x: Tensor, indices: Tensor) -> Tensor:
    """Tokens at `indices`, (B, P, D) and (B, V) -> (B, V, D)."""
    return x.gather(-2, indices[..., None].expand(-1, -1, x.shape[-1]))
