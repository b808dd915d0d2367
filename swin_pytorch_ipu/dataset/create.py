"""The data that the scripts' options describe; images are (3, height, width), uint8 unless the precision is mixed."""

from __future__ import annotations

from typing import Tuple, Union

import torch
from torch import Tensor

from dataset.augmentation import IMAGENET_MEAN, IMAGENET_STD, TrainAugmentation
from dataset.generated import GeneratedImages
from dataset.images import Cropping, ImageDataset, ImageSource, Prepare, require_classes
from dataset.sources import open_images
from ipu_options import create_program
from models.supervised import normalised
from options import Options, TrainOptions
from preparation import Preparation


def create_dataset(options: Options, split: str, bad_images: str) -> ImageDataset:
    """The "train" or "validation" images, with their labels.

    Raises:
        UserError: when the data are missing, laid out otherwise, damaged, or of another number of classes than the
            options say.
    """
    size, seed = options.image_size, options.seed if isinstance(options, TrainOptions) else 0
    prepare: Union[Prepare, Cropping]
    source: ImageSource
    if options.generated_data:
        samples = options.generated_steps * create_program(options).samples_per_step
        source = GeneratedImages(samples, max(size), options.num_classes or 1000, seed, split)
        prepare = Corner(size)
    else:
        source = open_images(options.data_path, options.data_format, split)
        require_classes(source, options.num_classes, options.data_path)
        prepare = _augmentation(options) if split == "train" else Preparation(size, options.eval_resize).cut
    return ImageDataset(
        source,
        prepare,
        convert=half_precision if options.precision == "mixed" else None,
        seed=seed,
        bad_image_ratio=options.bad_image_ratio,
        bad_images=bad_images,
    )


def _augmentation(options: Options) -> TrainAugmentation:
    assert isinstance(options, TrainOptions)
    return TrainAugmentation(
        options.image_size,
        scale_min=options.crop_scale_min,
        flip=options.random_flip,
        auto_augment=options.auto_augment or None,
        color_jitter=options.color_jitter,
        erase_probability=options.reprob,
        erase_mode=options.remode,
        erase_count=options.recount,
    )


class Corner:
    """The upper left corner: a crop of noise is noise."""

    def __init__(self, size: Tuple[int, int]) -> None:
        self.size = size

    def __call__(self, image: Tensor, _generator: torch.Generator) -> Tensor:
        """(3, H, W) -> (3, *size)."""
        return image[:, : self.size[0], : self.size[1]].contiguous()


def half_precision(image: Tensor) -> Tensor:
    """(3, H, W) uint8, normalised, in float16: it tells PopTorch to compute in half precision."""
    return normalised(image[None], IMAGENET_MEAN, IMAGENET_STD)[0].half()
