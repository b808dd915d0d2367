"""What the models' configurations have in common: checks that are told in one sentence."""

from __future__ import annotations

import difflib
from typing import Iterable, Tuple

from models.layers import GELUS


def check_counts(**counts: int) -> None:
    """ValueError unless each is at least 1."""
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} is at least 1, not {value}")


def check_heads(width: int, heads: int, prefix: str = "") -> None:
    """ValueError unless a width can be shared out among the heads."""
    if width % heads:
        raise ValueError(f"{prefix}width {width} is not divisible by {heads} heads; change one of them")


def check_image(image_size: Tuple[int, int], patch_size: int) -> None:
    """ValueError unless images are whole patches."""
    height, width = image_size
    if height % patch_size or width % patch_size or min(image_size) < patch_size:
        raise ValueError(
            f"image size {height}×{width} is not a multiple of the patch size {patch_size}; change one of them"
        )


def check_gelu(kind: str) -> None:
    """ValueError unless there is such a GELU."""
    if kind not in GELUS:
        raise ValueError(f"unknown gelu {kind!r}; choose one of {', '.join(GELUS)}")


def nearest(word: str, words: Iterable[str]) -> str:
    """The end of a sentence on an unknown word: the known one nearest to it, or all of them."""
    near = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(words)}"
