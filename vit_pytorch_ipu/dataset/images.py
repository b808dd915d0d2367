"""From (epoch, index) to what the model gets: source of images → decode guard → transform → dtype."""

from __future__ import annotations

from typing import List, Protocol, Tuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dataset.cifar10 import Cifar10Images
from dataset.folders import open_folders
from dataset.generated import GeneratedImages
from dataset.spec import DataSpec
from dataset.transforms import EvalTransform, TrainTransform, normalize, sample_generator
from run.errors import UserError
from run.images import BadImages


class ImageSource(Protocol):
    """Images before any transform, with their labels."""

    classes: List[str]  # by label
    prefix: str  # what the names of this source's images, and of no other's, start with

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What a message calls image `index`."""

    def label(self, index: int) -> int:
        """Class number of image `index`."""

    def image(self, index: int) -> Tensor:
        """(3, H, W) uint8; BadImageError where it cannot be decoded."""


class ImageDataset(Dataset):
    """Images prepared for the model, as a map from (epoch, index).

    May be pickled to worker processes. `classes` names the labels, `bad_images` lists what was undecodable.
    """

    def __init__(self, source: ImageSource, spec: DataSpec, training: bool) -> None:
        self.source = source
        self.classes = source.classes
        self.training = training
        self.dtype: torch.dtype = getattr(torch, spec.dtype)
        self.seed = spec.seed
        self.bad_images = BadImages(spec.bad_images, spec.bad_image_ratio)
        self._augment = TrainTransform(
            spec.image_size, spec.crop_scale_min, spec.random_flip, spec.extra_aug == "imagenet_policy"
        )
        self._prepare = EvalTransform(spec.image_size, spec.eval_resize)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Tuple[Tensor, Tensor]:
        return self.sample(0, index)

    def sample(self, epoch: int, index: int) -> Tuple[Tensor, Tensor]:
        """Sample `index` as augmented in `epoch`: image (3, size, size) in the data's dtype, label 0-d int64.

        uint8 images are 0..255, float ones are normalised to [-1, 1]. An image that cannot be decoded is
        listed and replaced, label and all, by the next good one. Validation is the same in every epoch.

        Raises:
            IndexError: outside 0 .. len - 1.
            UserError: when a long run of images cannot be decoded.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of a data set of {len(self)}")
        found, image = self.bad_images.first_good(index, len(self), self.source.image, self.source.name)
        if isinstance(self.source, GeneratedImages):
            pass  # has its size already, and a crop of noise is noise
        elif self.training:
            image = self._augment(image, sample_generator(self.seed, epoch, index))
        else:
            image = self._prepare(image)
        if self.dtype != torch.uint8:
            image = normalize(image, self.dtype)
        return image, torch.tensor(self.source.label(found))

    def check_bad_images(self) -> int:
        """How many of these images any process has found bad so far; UserError above the tolerated share."""
        return self.bad_images.check(len(self), within=self.source.prefix)


def create_dataset(spec: DataSpec, split: str) -> ImageDataset:
    """The "train" or "validation" images that `spec` describes.

    Raises:
        UserError: when the data are missing, laid out otherwise, damaged, or have another number of classes
            than the spec says.
    """
    source: ImageSource
    if spec.name == "generated":
        assert spec.num_classes is not None, "DataSpec requires it"
        source = GeneratedImages(spec.size, spec.image_size, spec.num_classes, spec.seed, split)
    elif spec.name == "cifar10":
        source = Cifar10Images(spec.path, split, spec.download)
    else:
        source = open_folders(spec.path, split)
    if spec.num_classes is not None and spec.num_classes != len(source.classes):
        raise UserError(
            f"The {spec.name} data in {spec.path} have {len(source.classes)} classes and the model is set up "
            f"for {spec.num_classes}: set the model to {len(source.classes)} classes or choose other data."
        )
    return ImageDataset(source, spec, training=split == "train")
