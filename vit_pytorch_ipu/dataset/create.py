"""The images that a DataSpec describes."""

from __future__ import annotations

from typing import Union

import torch
from torch import Tensor

from dataset.generated import GeneratedImages
from dataset.images import ImageDataset, ImageSource, open_source, require_classes
from dataset.spec import DataSpec
from dataset.transforms import EvalTransform, TrainTransform, normalize


def create_dataset(spec: DataSpec, split: str) -> ImageDataset:
    """The "train" or "validation" images that `spec` describes.

    A sample's image is (3, size, size) in the spec's dtype: uint8 is 0..255, floats are normalised to [-1, 1].
    Validation is the same in every epoch.

    Raises:
        UserError: when the data are missing, laid out otherwise, damaged, or have another number of classes
            than the spec says.
    """
    source: ImageSource
    if spec.name == "generated":
        assert spec.num_classes is not None, "DataSpec requires it"
        source = GeneratedImages(spec.size, spec.image_size, spec.num_classes, spec.seed, split)
    else:
        source = open_source(spec.name, spec.path, split, download=spec.download)
        require_classes(source, spec.num_classes, spec.path)
    return ImageDataset(
        source,
        Prepare(spec, split),
        seed=spec.seed,
        bad_image_ratio=spec.bad_image_ratio,
        bad_images=spec.bad_images,
    )


class Prepare:
    """Augmentation or preparation of an image, then its dtype, as a DataSpec says."""

    def __init__(self, spec: DataSpec, split: str) -> None:
        self.dtype: torch.dtype = getattr(torch, spec.dtype)
        self.transform: Union[TrainTransform, EvalTransform, None] = None
        if spec.name == "generated":
            return  # has its size already, and a crop of noise is noise
        if split == "train":
            policy = spec.extra_aug == "imagenet_policy"
            self.transform = TrainTransform(spec.image_size, spec.crop_scale_min, spec.random_flip, policy)
        else:
            self.transform = EvalTransform(spec.image_size, spec.eval_resize)

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """(3, H, W) uint8 -> (3, size, size)."""
        if self.transform:
            image = self.transform(image, generator)
        return image if self.dtype == torch.uint8 else normalize(image, self.dtype)
