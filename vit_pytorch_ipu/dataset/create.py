"""The images that a DataSpec describes."""

from __future__ import annotations

from functools import partial
from typing import Union

import torch
from torch import Tensor

from dataset.generated import GeneratedImages
from dataset.images import Cropping, ImageDataset, ImageSource, Prepare, open_source, require_classes
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
        _preparation(spec, split),
        convert=None if spec.dtype == "uint8" else partial(normalize, dtype=getattr(torch, spec.dtype)),
        seed=spec.seed,
        bad_image_ratio=spec.bad_image_ratio,
        bad_images=spec.bad_images,
    )


def _preparation(spec: DataSpec, split: str) -> Union[Prepare, Cropping]:
    """Augmentation or deterministic preparation of an image."""
    if spec.name == "generated":
        return _as_it_is
    if split == "train":
        policy = spec.extra_aug == "imagenet_policy"
        return TrainTransform(spec.image_size, spec.crop_scale_min, spec.random_flip, policy)
    return EvalTransform(spec.image_size, spec.eval_resize)


def _as_it_is(image: Tensor, _generator: torch.Generator) -> Tensor:
    """Has its size already, and a crop of noise is noise."""
    return image
