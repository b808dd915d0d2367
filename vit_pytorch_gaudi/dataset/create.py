"""The images that the options name."""

from __future__ import annotations

from typing import Union

import torch
from torch import Tensor

from dataset.cifar100 import Cifar100Images
from dataset.generated import GeneratedImages
from dataset.images import Cropping, ImageDataset, ImageSource, Prepare, open_source, require_classes
from dataset.transforms import EvalTransform, TrainTransform
from options import TrainOptions


def create_dataset(options: TrainOptions, split: str, bad_images: str) -> ImageDataset:
    """The "train" or "validation" images as uint8 (3, size, size), normalised on the device.

    Validation is the same in every epoch and resized straight to the model's size, whatever its shape.

    Args:
        options: of the run.
        split: which images.
        bad_images: file that lists unreadable ones.

    Raises:
        UserError: when the data are missing, laid out otherwise, damaged, or have another number of classes than the
            options say.
    """
    return ImageDataset(
        _open(options, split),
        _preparation(options, split),
        seed=options.seed,
        bad_image_ratio=options.bad_image_ratio,
        bad_images=bad_images,
    )


def _open(options: TrainOptions, split: str) -> ImageSource:
    source: ImageSource
    if options.dataset == "generated":
        assert options.num_classes is not None, "TrainOptions requires it"
        return GeneratedImages(options.num_samples, options.img_size, options.num_classes, options.seed, split)
    if options.dataset == "cifar100":
        source = Cifar100Images(options.data_folder, split, options.download)
    else:
        source = open_source(options.dataset, options.data_folder, split, download=options.download)
    require_classes(source, options.num_classes, options.data_folder)
    return source


def _preparation(options: TrainOptions, split: str) -> Union[Prepare, Cropping]:
    if options.dataset == "generated":
        return _as_it_is  # has its size already, and a crop of noise is noise
    if split == "train":
        return TrainTransform(options.img_size, options.crop_scale_min, options.random_flip, imagenet_policy=False)
    return EvalTransform(options.img_size, "direct")


def _as_it_is(image: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG001
    return image
