"""How a checkpoint wants its images: resize and normalisation, in Hugging Face's preprocessor_config.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Tuple

import torch
from torch import Tensor

from dataset.transforms import EvalTransform

_HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Preparation:
    """Evaluation's preparation: size in pixels, "crop" or "direct" as in `EvalTransform`, mean and std per channel."""

    size: int
    eval_resize: str = "direct"
    mean: Tuple[float, ...] = _HALF
    std: Tuple[float, ...] = _HALF

    def __str__(self) -> str:
        how = {"crop": "centre crop", "direct": "resized as a whole"}[self.eval_resize]
        mean, std = (" ".join("%g" % value for value in values) for values in (self.mean, self.std))
        return f"{how}, {self.size}×{self.size} pixels, mean {mean}, std {std}"

    def cut(self, image: Tensor) -> Tensor:
        """(3, H, W) uint8 -> (3, size, size) uint8."""
        return EvalTransform(self.size, self.eval_resize)(image)

    def normalise(self, images: Tensor) -> Tensor:
        """(B, 3, size, size) uint8 -> float32, as the model takes it."""
        mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in (self.mean, self.std))
        return images.to(torch.float32).div_(255).sub_(mean).div_(std)


def read_preparation(config: Dict[str, Any], size: int) -> Preparation:
    """Preparation of `size` pixels from a preprocessor_config.json, {} where there is none.

    Where the file names none, the whole image is resized, and mean and std are 0.5, as this app trains.
    """
    size_of_file = config.get("size")  # a number in older files
    by_edge = isinstance(size_of_file, dict) and "shortest_edge" in size_of_file
    crops = config.get("do_center_crop", False) or by_edge
    normalised = config if config.get("do_normalize", True) else {"image_mean": (0.0,) * 3, "image_std": (1.0,) * 3}
    mean, std = (tuple(normalised.get(key) or _HALF) for key in ("image_mean", "image_std"))
    return Preparation(size, "crop" if crops else "direct", mean, std)
