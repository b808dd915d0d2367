"""Augmentation and preparation of uint8 images on tensors.

Every random choice is drawn from a generator that depends on (seed, epoch, sample) alone, so a sample's bytes
are the same whichever worker process, thread or rank prepares it; the global generators are left untouched.
"""

from __future__ import annotations

import hashlib
import math
from functools import partial
from typing import Optional, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import AutoAugment, AutoAugmentPolicy

from run.images import Box, cut

_HAS_UINT8_RESIZE = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 1)


def sample_seed(*key: object) -> int:
    """A 64-bit seed that depends on every part of `key` and spreads neighbours apart."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def sample_generator(seed: int, epoch: int, index: int) -> torch.Generator:
    """The generator behind the augmentation of sample `index` in `epoch`."""
    return torch.Generator().manual_seed(sample_seed(seed, epoch, index))


def normalize(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 pixels of any shape -> [-1, 1] in `dtype` (mean = std = 0.5); computed in float32."""
    return images.to(torch.float32).div_(255).sub_(0.5).div_(0.5).to(dtype)


def resize(image: Tensor, size: Tuple[int, int], mode: str = "bilinear") -> Tensor:
    """(3, H, W) uint8 -> (3, *size) uint8, bilinear or bicubic with antialiasing.

    The 8-bit kernel wants the channels innermost, which is also how decoders lay pixels out.
    """
    batch = image.permute(1, 2, 0).contiguous()[None].permute(0, 3, 1, 2)  # image[None] has strides that hide it
    if _HAS_UINT8_RESIZE:
        return F.interpolate(batch, size, mode=mode, antialias=True)[0]
    return _resize_through_float(batch, size, mode)[0]


def _resize_through_float(batch: Tensor, size: Tuple[int, int], mode: str = "bilinear") -> Tensor:
    """The same resize where torch has no 8-bit kernel; differs by rounding, at most one level."""
    floats = F.interpolate(batch.to(torch.float32), size, mode=mode, antialias=True)
    return floats.round_().clamp_(0, 255).to(torch.uint8)


def planes(image: Tensor, mirrored: bool = False) -> Tensor:
    """(3, H, W) uint8, laid out in any way -> one channel after the other in memory, columns reversed if so asked.

    NumPy does both at once, and faster than torch.
    """
    pixels = image.numpy()
    return torch.from_numpy(np.ascontiguousarray(pixels[:, :, ::-1] if mirrored else pixels))


class TrainTransform:
    """Random resized crop, mirror image, AutoAugment: (3, H, W) uint8 -> (3, size, size) uint8."""

    def __init__(self, size: int, crop_scale_min: float, random_flip: bool, imagenet_policy: bool) -> None:
        self.size = size
        self.crop_scale_min = crop_scale_min
        self.random_flip = random_flip
        self.imagenet_policy = imagenet_policy

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Augment `image` by draws from `generator`."""
        return self.finish(cut(image, partial(self.box, generator=generator)), generator)

    def box(self, height: int, width: int, generator: torch.Generator) -> Box:
        """The part of an image that is used: the first draw."""
        return random_crop_box(height, width, self.crop_scale_min, generator)

    def finish(self, part: Tensor, generator: torch.Generator) -> Tensor:
        """What follows: (3, rows, columns) uint8 -> (3, size, size) uint8."""
        image = resize(part, (self.size, self.size))
        mirrored = self.random_flip and bool(torch.rand((), generator=generator) < 0.5)
        if not self.imagenet_policy:
            return planes(image, mirrored)
        pixels = (image.flip(-1) if mirrored else image).permute(1, 2, 0).contiguous().numpy()
        augmented = _SeededAutoAugment(generator)(Image.fromarray(pixels))
        return planes(torch.from_numpy(np.array(augmented)).permute(2, 0, 1))


class EvalTransform:
    """Deterministic preparation: (3, H, W) uint8 -> (3, size, size) uint8.

    "crop" resizes the shorter side to size * 256/224 and cuts out the centre; "direct" resizes to size x size
    and so keeps the borders, which matter in small images such as CIFAR-10's.
    """

    def __init__(self, size: int, mode: str) -> None:
        self.size = size
        self.mode = mode

    def __call__(self, image: Tensor, _generator: Optional[torch.Generator] = None) -> Tensor:
        """Prepare `image`; nothing is random."""
        size = self.size
        if self.mode == "direct":
            return resize(image, (size, size)).contiguous()
        image = _limit_aspect_ratio(image)
        height, width = image.shape[-2:]
        shorter = round(size * 256 / 224)
        scale = shorter / min(height, width)
        image = resize(image, (max(shorter, int(height * scale)), max(shorter, int(width * scale))))
        top = round((image.shape[-2] - size) / 2)
        left = round((image.shape[-1] - size) / 2)
        return image[:, top : top + size, left : left + size].contiguous()


def _limit_aspect_ratio(image: Tensor) -> Tensor:
    """Cut off what lies beyond 4:1: the centre crop never sees it, and a 1 x 10000 strip would fill memory."""
    height, width = image.shape[-2:]
    longest = 4 * min(height, width)
    top, left = max(0, height - longest) // 2, max(0, width - longest) // 2
    return image[:, top : top + longest, left : left + longest]


def random_crop_box(height: int, width: int, scale_min: float, generator: torch.Generator) -> Box:
    """(top, left, rows, columns) of Inception's crop (Szegedy et al. 2014, section 6): area uniform in
    [scale_min, 1] of the image, aspect ratio log-uniform in [3/4, 4/3], position uniform.

    Ten tries; an image that admits none of them gives the largest centred box of an allowed ratio.
    """
    log_ratio = math.log(4 / 3)
    for _ in range(10):
        area, ratio, y, x = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        area = height * width * (scale_min + (1 - scale_min) * area)
        ratio = math.exp(log_ratio * (2 * ratio - 1))
        rows, columns = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < rows <= height and 0 < columns <= width:
            return int(y * (height - rows + 1)), int(x * (width - columns + 1)), rows, columns
    rows = min(height, max(1, round(width * 4 / 3)))
    columns = min(width, max(1, round(height * 4 / 3)))
    return (height - rows) // 2, (width - columns) // 2, rows, columns


class _SeededAutoAugment(AutoAugment):
    """torchvision's ImageNet policy (Cubuk et al. 2019) with its own generator; holes are filled with grey.

    Meant for Pillow images, on which it takes half the time that it takes on tensors.
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__(AutoAugmentPolicy.IMAGENET, fill=[128, 128, 128])
        self.generator = generator

    def get_params(self, transform_num: int) -> Tuple[int, Tensor, Tensor]:
        policy = int(torch.randint(transform_num, (1,), generator=self.generator))
        probabilities = torch.rand(2, generator=self.generator)
        signs = torch.randint(2, (2,), generator=self.generator)
        return policy, probabilities, signs
