"""Augmentation of uint8 images, by timm in part; sizes are (height, width) in pixels.

Images stay uint8 to the end: the model normalises them where it runs. What timm draws comes from Python's, NumPy's and
torch's global generators, which are seeded for each sample and put back, so that a sample's bytes depend on
(seed, epoch, sample) alone.
"""

from __future__ import annotations

import random
from contextlib import contextmanager
from functools import partial
from typing import Any, Iterator, Optional, Sequence, Tuple

import numpy as np
import timm.data.auto_augment as auto_augment_ops
import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torchvision.transforms import ColorJitter

from dataset.transforms import planes, random_crop_box, resize
from run.errors import UsageError
from run.images import Box, cut

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class TrainAugmentation:
    """Random resized crop, mirror image, RandAugment or colour jitter, random erasing: uint8 (3, H, W) -> (3, *size).

    Args:
        size: of the result.
        scale_min: smallest share of the image's area that a crop keeps.
        flip: mirror half of the images.
        auto_augment: timm's description of RandAugment, such as rand-m9-mstd0.5-inc1; None for none.
        color_jitter: strength of jitter in brightness, contrast and saturation; without effect beside auto_augment,
            as in timm.
        erase_probability: of random erasing (Zhong et al. 2020, arXiv:1708.04896).
        erase_mode: what fills the box: "pixel", normal noise, "rand", one such colour, or "const", the mean.
        erase_count: boxes at most.
        mean: of the data's channels, from 0 to 1; it fills what rotations uncover.
        std: of the data's channels, from 0 to 1.
        interpolation: "bicubic" or "bilinear".

    Raises:
        UsageError: timm knows no such RandAugment.
    """

    def __init__(
        self,
        size: Tuple[int, int],
        *,
        scale_min: float = 0.08,
        flip: bool = True,
        auto_augment: Optional[str] = None,
        color_jitter: Optional[float] = None,
        erase_probability: float = 0.0,
        erase_mode: str = "pixel",
        erase_count: int = 1,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        interpolation: str = "bicubic",
    ) -> None:
        self.size, self.scale_min, self.flip, self.interpolation = size, scale_min, flip, interpolation
        self.mean, self.std = tuple(mean), tuple(std)
        self.by_pillow: Any = None
        if auto_augment:
            fill = tuple(round(255 * value) for value in mean)
            resample = Image.Resampling.BICUBIC if interpolation == "bicubic" else Image.Resampling.BILINEAR
            hints = {"translate_const": int(0.45 * min(size)), "img_mean": fill, "interpolation": resample}
            try:
                self.by_pillow = rand_augment_transform(auto_augment, hints)
            except (AssertionError, LookupError, ValueError) as error:
                raise UsageError(
                    f"{auto_augment} describes no RandAugment: give a description such as rand-m9-mstd0.5-inc1"
                ) from error
            for op in self.by_pillow.ops:
                op.aug_fn = _posterize if op.aug_fn is auto_augment_ops.posterize else op.aug_fn
        elif color_jitter:
            self.by_pillow = ColorJitter(color_jitter, color_jitter, color_jitter)
        self.erase = None
        if erase_probability:
            self.erase = RandomErasing(erase_probability, mode=erase_mode, max_count=erase_count, device="cpu")

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Augment `image` by draws from `generator`."""
        return self.finish(cut(image, partial(self.box, generator=generator)), generator)

    def box(self, height: int, width: int, generator: torch.Generator) -> Box:
        """The part of an image that is used: the first draw."""
        return random_crop_box(height, width, self.scale_min, generator)

    def finish(self, part: Tensor, generator: torch.Generator) -> Tensor:
        """What follows: (3, rows, columns) uint8 -> (3, *size) uint8."""
        image = resize(part, self.size, self.interpolation)
        mirrored = self.flip and bool(torch.rand((), generator=generator) < 0.5)
        if not (self.by_pillow or self.erase):
            return planes(image, mirrored)
        with seeded(generator):
            return planes(self._by_timm(image.flip(-1) if mirrored else image))

    def _by_timm(self, image: Tensor) -> Tensor:
        if self.by_pillow:
            augmented = self.by_pillow(Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()))
            image = torch.from_numpy(np.array(augmented)).permute(2, 0, 1)
        if self.erase:
            # timm erases in normalised images: it does so in an empty one, and what it filled is made pixels of.
            filled = self.erase(torch.full(image.shape, torch.nan))
            box = ~filled[:1].isnan()  # (1, H, W)
            if box.any():
                mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
                pixels = (filled * std + mean).mul(255).round().clamp(0, 255).nan_to_num(0)
                image = torch.where(box, pixels.to(torch.uint8), image)
        return image


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """Keep at least one bit: at the largest magnitude timm asks for none, which Pillow refuses."""
    return auto_augment_ops.posterize(image, max(1, bits))


@contextmanager
def seeded(generator: torch.Generator) -> Iterator[None]:
    """Seed the global generators of Python, NumPy and torch by a draw, and put them back as they were."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = int(torch.randint(2**31, (), generator=generator))
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
