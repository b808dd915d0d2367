"""Random images made on the fly, for benchmarks and smoke tests: nothing is stored."""

from __future__ import annotations

from typing import List, Optional

import numpy as np
import torch
from torch import Tensor

from dataset.transforms import sample_seed
from run.images import Crop, cut


class GeneratedImages:
    """`size` images of uniform noise over the full 0..255 range; labels go round all classes.

    Image `index` depends on (seed, split, index) alone; it has the model's size already.
    """

    def __init__(self, size: int, image_size: int, num_classes: int, seed: int, split: str) -> None:
        self.size = size
        self.image_size = image_size
        self.classes: List[str] = [f"class {label}" for label in range(num_classes)]
        self.prefix = f"generated {split} image "
        self.key = (seed, split)

    def __len__(self) -> int:
        return self.size

    def name(self, index: int) -> str:
        """What a message calls image `index`."""
        return f"{self.prefix}{index}"

    def label(self, index: int) -> int:
        """Class number of image `index`."""
        return index % len(self.classes)

    def image(self, index: int, crop: Optional[Crop] = None) -> Tensor:
        """(3, image_size, image_size) uint8, or the part of it that `crop` chooses."""
        random = np.random.default_rng(sample_seed(self.key, index))
        shape = (3, self.image_size, self.image_size)
        return cut(torch.from_numpy(random.integers(0, 256, shape, dtype=np.uint8)), crop)
