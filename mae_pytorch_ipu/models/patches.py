"""Images as sequences of patches, and back (He et al. 2021, arXiv:2111.06377, section 3).

Shape letters: B batch, c channels, p patch side, h × w grid of patches, P = h·w patches.
"""

from __future__ import annotations

from typing import Tuple

from torch import Tensor


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cut images into patches, row by row, with pixels row by row and the channels of a pixel together.

    Args:
        images: (B, c, h·p, w·p).
        patch_size: p, in pixels.

    Returns:
        (B, h·w, p·p·c).
    """
    batch, channels, height, width = images.shape
    p = patch_size
    assert height % p == 0, "the height is a multiple of the patch size"
    assert width % p == 0, "the width is a multiple of the patch size"
    x = images.reshape(batch, channels, height // p, p, width // p, p)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, p * p * channels)  # (B, c, h, p, w, p) -> (B, P, p·p·c)


def unpatchify(patches: Tensor, grid: Tuple[int, int], patch_size: int) -> Tensor:
    """The images that `patchify` has cut up, (B, h·w, p·p·c) -> (B, c, h·p, w·p).

    Args:
        patches: of `patchify`.
        grid: h and w.
        patch_size: p, in pixels.
    """
    rows, columns = grid
    p = patch_size
    x = patches.reshape(patches.shape[0], rows, columns, p, p, -1)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(patches.shape[0], -1, rows * p, columns * p)
