"""Which kind of data lies in a folder, and the order of its classes."""

from __future__ import annotations

from typing import Optional, Sequence

import numpy as np
from torch import Tensor

import imagenet22k
from dataset.images import ImageSource, open_source
from dataset.packed import PackedImages
from dataset.zips import ZipImages, find_archive
from run.images import Crop
from run.launcher import say

FORMATS = ("folders", "zip", "packed")


def open_images(path: str, data_format: str, split: str) -> ImageSource:
    """The "train" or "validation" images in `path`.

    Args:
        path: folder of the data.
        data_format: one of FORMATS, or "auto" for what is there: packed pixels before archives before class folders.
        split: which.

    Raises:
        UserError: when the data are missing, laid out otherwise or damaged.
    """
    if data_format == "auto":
        data_format = "folders"
        if PackedImages.is_in(path):
            data_format = "packed"
        elif find_archive(path, split):
            data_format = "zip"
    source: ImageSource
    if data_format == "packed":
        source = PackedImages(path, split)
    elif data_format == "zip":
        source = ZipImages.open(path, split)
    else:
        source = open_source("imagenet1k", path, split)
    return _numbered_as_published(source)


def _numbered_as_published(source: ImageSource) -> ImageSource:
    """The same with ImageNet-22k's classes numbered as in published weights, which is not their alphabetical order."""
    if len(source.classes) != imagenet22k.CLASSES:
        return source
    published = imagenet22k.synsets()
    if source.classes == published or set(source.classes) != set(published):
        return source
    say("ImageNet-22k's classes are numbered as in published weights, which differs from alphabetical order")
    return Renumbered(source, published)


class Renumbered:
    """The images of a source whose classes have another order.

    Args:
        source: of the images.
        classes: the same ones, in the order that labels number them.
    """

    def __init__(self, source: ImageSource, classes: Sequence[str]) -> None:
        self.source, self.classes, self.prefix = source, list(classes), source.prefix
        label = {name: index for index, name in enumerate(classes)}
        self._labels = np.array([label[name] for name in source.classes])

    def __len__(self) -> int:
        return len(self.source)

    def name(self, index: int) -> str:
        """What a message calls image `index`."""
        return self.source.name(index)

    def label(self, index: int) -> int:
        """Class number of image `index`."""
        return int(self._labels[self.source.label(index)])

    def image(self, index: int, crop: Optional[Crop] = None) -> Tensor:
        """(3, H, W) uint8, or the part of it that `crop` chooses; BadImageError where it cannot be decoded."""
        return self.source.image(index, crop)
