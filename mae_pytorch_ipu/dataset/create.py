"""The data that the scripts' options describe; images are (3, size, size) uint8, the model normalises them."""

from __future__ import annotations

from typing import Callable, Optional, Tuple, Union

import torch
from torch import Tensor

from dataset.augmentation import TrainAugmentation
from dataset.generated import GeneratedImages
from dataset.images import ImageDataset, ImageSource, open_source, require_classes
from dataset.transforms import sample_seed
from ipu_options import create_program
from models.masking import one_hot
from models.reconstruction import mask_noise
from options import AugmentationOptions, ClassifierOptions, DataOptions, FinetuneOptions, PretrainOptions
from preparation import Preparation

Prepare = Callable[[Tensor, torch.Generator], Tensor]


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
    size = (options.input_size, options.input_size)
    crop = TrainAugmentation(size, scale_min=options.crop_scale_min, flip=options.random_flip)
    prepare = crop if split == "train" else _preparation(options, "crop").cut
    data = _dataset(options, split, prepare, options.seed, bad_images, 1)
    return MaskedImages(data, matrices, torch.half if options.half else torch.float32)


def classification_data(
    options: Union[FinetuneOptions, ClassifierOptions], split: str, bad_images: str, seed: int = 0
) -> ImageDataset:
    """The "train" or "validation" images of a classifier, with their labels.

    Raises:
        UserError: when the data are missing, laid out otherwise, damaged, or of another number of classes than the
            options say.
    """
    assert isinstance(options, DataOptions)
    prepare: Prepare
    if split == "train":
        assert isinstance(options, AugmentationOptions)
        prepare = TrainAugmentation(
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
    else:
        prepare = preparation_of(options).cut
    data = _dataset(options, split, prepare, seed, bad_images, options.nb_classes or 1000)
    require_classes(data.source, options.nb_classes, options.data_path)
    return data


def preparation_of(options: ClassifierOptions) -> Preparation:
    """How evaluation prepares images."""
    return _preparation(options, options.eval_resize)


def _preparation(options: Union[PretrainOptions, ClassifierOptions], eval_resize: str) -> Preparation:
    assert isinstance(options, DataOptions)
    return Preparation(options.input_size, eval_resize, tuple(options.mean), tuple(options.std))


def _dataset(
    options: DataOptions, split: str, prepare: Prepare, seed: int, bad_images: str, generated_classes: int
) -> ImageDataset:
    source: ImageSource
    if options.generated_data:
        assert isinstance(options, (PretrainOptions, ClassifierOptions))
        samples = options.generated_steps * create_program(options).samples_per_step
        source = GeneratedImages(samples, options.input_size, generated_classes, seed, split)
        prepare = _as_it_is
    else:
        source = open_source("imagenet1k", options.data_path, split)
    return ImageDataset(source, prepare, seed=seed, bad_image_ratio=options.bad_image_ratio, bad_images=bad_images)


def _as_it_is(image: Tensor, _generator: torch.Generator) -> Tensor:
    """A crop of noise is noise."""
    return image
