"""From (epoch, index) to what the model gets: source of images → decode guard → transform."""

from __future__ import annotations

from functools import partial
from typing import Callable, List, Optional, Protocol, Tuple, Union, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dataset.cifar10 import Cifar10Images
from dataset.folders import open_folders
from dataset.transforms import sample_generator
from run.errors import UserError
from run.images import BadImages, Box, Crop


class ImageSource(Protocol):
    """Images before any transform, with their labels."""

    classes: List[str]  # by label
    prefix: str  # what the names of this source's images, and of no other's, start with

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What a message calls image `index`."""

    def label(self, index: int) -> int:
        """Class number of image `index`."""

    def image(self, index: int, crop: Optional[Crop] = None) -> Tensor:
        """(3, H, W) uint8, or the part of it that `crop` chooses; BadImageError where it cannot be decoded."""


@runtime_checkable
class Cropping(Protocol):
    """A preparation that first draws a part of the image, so that the rest need not be decoded."""

    def box(self, height: int, width: int, generator: torch.Generator) -> Box:
        """The part of an image of that size."""

    def finish(self, part: Tensor, generator: torch.Generator) -> Tensor:
        """(3, rows, columns) uint8 -> the prepared image."""


Prepare = Callable[[Tensor, torch.Generator], Tensor]


class ImageDataset(Dataset):
    """Images prepared for the model, as a map from (epoch, index).

    May be pickled to worker processes. `classes` names the labels, `bad_images` lists what was undecodable.

    Args:
        source: of the images.
        prepare: (3, H, W) uint8 and a generator of random numbers → the image in its size, at once or in two steps.
        convert: the prepared image → what the model gets; None: as it is.
        seed: of the generators.
        bad_image_ratio: share of images that may fail to decode before the run stops.
        bad_images: file that lists them; None: one in the temporary folder.
    """

    def __init__(
        self,
        source: ImageSource,
        prepare: Union[Prepare, Cropping],
        *,
        convert: Optional[Callable[[Tensor], Tensor]] = None,
        seed: int = 0,
        bad_image_ratio: float = 0.001,
        bad_images: Optional[str] = None,
    ) -> None:
        self.source = source
        self.classes = source.classes
        self.seed = seed
        self.bad_images = BadImages(bad_images, bad_image_ratio)
        self._box = prepare.box if isinstance(prepare, Cropping) else None
        self._prepare: Prepare = prepare.finish if isinstance(prepare, Cropping) else prepare
        self._convert = convert

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Tuple[Tensor, Tensor]:
        return self.sample(0, index)

    def sample(self, epoch: int, index: int) -> Tuple[Tensor, Tensor]:
        """Sample `index` as prepared in `epoch`: what the model gets, and the label as 0-d int64.

        Random choices depend on (seed, epoch, index) alone. An image that cannot be decoded is listed and replaced,
        label and all, by the next good one.

        Raises:
            IndexError: outside 0 .. len - 1.
            UserError: when a long run of images cannot be decoded.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of a data set of {len(self)}")

        def load(candidate: int) -> Tensor:
            generator = sample_generator(self.seed, epoch, index)
            crop = partial(self._box, generator=generator) if self._box else None
            return self._prepare(self.source.image(candidate, crop), generator)

        found, image = self.bad_images.first_good(index, len(self), load, self.source.name)
        return self._convert(image) if self._convert else image, torch.tensor(self.source.label(found))

    def check_bad_images(self) -> int:
        """How many of these images any process has found bad so far; UserError above the tolerated share."""
        return self.bad_images.check(len(self), within=self.source.prefix)


def open_source(name: str, path: str, split: str, *, download: bool = False) -> ImageSource:
    """The "train" or "validation" images of the data set `name` ("cifar10", otherwise class folders) in `path`.

    Raises:
        UserError: when the data are missing, laid out otherwise or damaged.
    """
    return Cifar10Images(path, split, download) if name == "cifar10" else open_folders(path, split)


def require_classes(source: ImageSource, num_classes: Optional[int], path: str) -> None:
    """UserError unless the data in `path` have `num_classes` classes; None is any number."""
    if num_classes is not None and num_classes != len(source.classes):
        raise UserError(
            f"The data in {path} have {len(source.classes)} classes and the model is set up "
            f"for {num_classes}: set the model to {len(source.classes)} classes or choose other data."
        )
