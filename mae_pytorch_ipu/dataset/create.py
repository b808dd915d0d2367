"""The data that the scripts' options describe; images are (3, size, size) uint8, the model normalises them."""

from __future__ import annotations

from typing import Optional, Tuple, Union

import torch
from torch import Tensor

from dataset.augmentation import TrainAugmentation
from dataset.generated import GeneratedImages
from dataset.images import Cropping, ImageDataset, ImageSource, Prepare, open_source, require_classes
from dataset.transforms import sample_seed
from ipu_options import create_program
from models.masking import one_hot
from models.reconstruction import mask_noise
from option_groups import DataOptions
from options import FinetuneOptions, LinprobeOptions, Options, PretrainOptions, ValidationOptions
from preparation import Preparation

Preparing = Union[Prepare, Cropping]


class MaskedImages:
    """Images with what decides their masks, which depends on (seed, epoch, sample) alone.

    Args:
        images: to mask.
        matrices: (patches, visible) makes a sample's mask a one-hot matrix; None leaves it a key, int64, from which
            the device draws the same mask.
        dtype: of the matrices.
    """

    def __init__(self, images: ImageDataset, matrices: Optional[Tuple[int, int]], dtype: torch.dtype) -> None:
        self.images, self.matrices, self.dtype = images, matrices, dtype

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, epoch: int, index: int) -> Tuple[Tensor, Tensor]:
        """Sample `index` as it is seen in `epoch`: image, and key or matrix (P, V)."""
        image, _ = self.images.sample(epoch, index)
        key = torch.tensor(sample_seed("mask", self.images.seed, epoch, index) >> 2)  # not negative: that is padding
        if self.matrices is None:
            return image, key
        patches, visible = self.matrices
        return image, one_hot(mask_noise(key[None], patches)[0], visible, self.dtype)

    def check_bad_images(self) -> int:
        """How many images can't be decoded so far; UserError above the tolerated share."""
        return self.images.check_bad_images()


def masked_data(
    options: PretrainOptions, split: str, bad_images: str, matrices: Optional[Tuple[int, int]] = None
) -> MaskedImages:
    """The "train" or "validation" images of pretraining; evaluation crops the centre.

    Args:
        options: of the script.
        split: which.
        bad_images: file that lists unreadable images.
        matrices: (patches, visible) to draw the masks of training on the host.

    Raises:
        UserError: when the data are missing, laid out otherwise or damaged.
    """
    prepare: Preparing = _cropped(options) if split == "train" else preparation_of(options, "crop").cut
    source = _source(options, split, options.input_size, 1, options.seed)
    data = _dataset(options, source, prepare, bad_images, options.seed)
    return MaskedImages(data, matrices, torch.half if options.half else torch.float32)


def classification_data(options: Union[FinetuneOptions, LinprobeOptions], split: str, bad_images: str) -> ImageDataset:
    """The "train" or "validation" images of a classifier, with their labels. Arguments as of `masked_data`.

    Raises:
        UserError: when the data are missing, laid out otherwise, damaged, or of another number of classes than the
            options say.
    """
    source = _source(options, split, options.input_size, options.nb_classes or 1000, options.seed)
    require_classes(source, options.nb_classes, options.data_path)
    prepare: Preparing = preparation_of(options, options.eval_resize).cut
    if split == "train":
        prepare = _augmented(options) if isinstance(options, FinetuneOptions) else _cropped(options)
    return _dataset(options, source, prepare, bad_images, options.seed)


def validation_data(
    options: ValidationOptions, preparation: Preparation, classes: int, bad_images: str
) -> ImageDataset:
    """The validation images as weights want them; generated ones are of so many classes. UserError as above."""
    source = _source(options, "validation", preparation.size, classes, seed=0)
    return _dataset(options, source, preparation.cut, bad_images, seed=0)


def preparation_of(options: Union[PretrainOptions, FinetuneOptions, LinprobeOptions], eval_resize: str) -> Preparation:
    """How evaluation prepares images."""
    return Preparation(options.input_size, eval_resize, tuple(options.mean), tuple(options.std))


def _cropped(options: Union[PretrainOptions, LinprobeOptions]) -> TrainAugmentation:
    size = (options.input_size, options.input_size)
    return TrainAugmentation(size, scale_min=options.crop_scale_min, flip=options.random_flip)


def _augmented(options: FinetuneOptions) -> TrainAugmentation:
    return TrainAugmentation(
        (options.input_size, options.input_size),
        scale_min=options.crop_scale_min,
        flip=options.random_flip,
        auto_augment=options.aa or None,
        color_jitter=options.color_jitter,
        erase_probability=options.reprob,
        erase_mode=options.remode,
        erase_count=options.recount,
        mean=options.mean,
        std=options.std,
    )


def _source(options: Options, split: str, size: int, classes: int, seed: int) -> ImageSource:
    if not options.generated_data:
        return open_source("imagenet1k", options.data_path, split)
    samples = options.generated_steps * create_program(options).samples_per_step
    return GeneratedImages(samples, size, classes, seed, split)


def _dataset(options: DataOptions, source: ImageSource, prepare: Preparing, bad_images: str, seed: int) -> ImageDataset:
    if options.generated_data:
        prepare = _as_it_is
    return ImageDataset(source, prepare, seed=seed, bad_image_ratio=options.bad_image_ratio, bad_images=bad_images)


def _as_it_is(image: Tensor, _generator: torch.Generator) -> Tensor:
    """A crop of noise is noise."""
    return image
