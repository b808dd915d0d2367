"""Image files in one folder per class: `<path>/train/<class>/*`, `<path>/validation/<class>/*` (or `val`)."""

from __future__ import annotations

import os
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import List, Optional, Sequence

import numpy as np
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from common.imagenet import ImageNetLayoutError, require
from run.errors import UserError
from run.images import Crop, decode_rgb

_SPLIT_FOLDERS = {"train": ("train",), "validation": ("validation", "val")}
_SUFFIXES = tuple(os.fsencode(suffix) for suffix in IMG_EXTENSIONS)
_DEPTH_IN_CLASS = 3  # Tiny-ImageNet has train/CLASS/images/*.JPEG; the bound ends circular links
_LISTING_THREADS = 16  # a network file system takes milliseconds to answer for one folder


def open_folders(path: str, split: str) -> FolderImages:
    """The images of `split` below `path`, after a check of the layout.

    The other split may be missing; where it is there, it must have the same classes.

    Raises:
        UserError: with what is wrong and its remedy.
    """
    other = "validation" if split == "train" else "train"
    alone = not any(os.path.isdir(os.path.join(path, name)) for name in _SPLIT_FOLDERS[other])
    try:
        verdict = require(path, "folders", split if alone else None)
    except ImageNetLayoutError as error:
        raise UserError(str(error)) from error
    return FolderImages(os.fspath(verdict.splits[split]), verdict.classes)


class FolderImages:
    """The images below a folder; label = position of their class in `classes`, order = by class, then by name.

    Names are kept as one byte string with offsets: a million Python strings would be copied into every forked
    worker as their reference counts change, and pickled one by one to a spawned worker.
    """

    def __init__(self, folder: str, classes: Sequence[str]) -> None:
        self.folder = folder
        self.classes = list(classes)
        self.prefix = os.path.join(folder, "")
        with ThreadPoolExecutor(_LISTING_THREADS) as threads:
            listings = list(threads.map(lambda name: _image_files(os.path.join(folder, name)), classes))
        files = [file for listing in listings for file in listing]
        self._class_ends = list(accumulate(len(listing) for listing in listings))
        self._name_ends = np.cumsum([len(file) for file in files])
        self._names = b"".join(files)

    def __len__(self) -> int:
        return len(self._name_ends)

    def name(self, index: int) -> str:
        """Path of image `index`."""
        start = self._name_ends[index - 1] if index else 0
        file = os.fsdecode(self._names[start : self._name_ends[index]])
        return os.path.join(self.folder, self.classes[self.label(index)], file)

    def label(self, index: int) -> int:
        """Class number of image `index`."""
        return bisect_right(self._class_ends, index)

    def image(self, index: int, crop: Optional[Crop] = None) -> Tensor:
        """(3, H, W) uint8, or the part of it that `crop` chooses; BadImageError where it cannot be decoded."""
        return decode_rgb(self.name(index), crop)


def _image_files(folder: str) -> List[bytes]:
    """Names of all images in a class folder and below, relative to it, sorted; links are followed."""
    top = os.path.join(os.fsencode(folder), b"")
    files = []
    for where, below, names in os.walk(top, followlinks=True):
        if where.count(b"/") - top.count(b"/") == _DEPTH_IN_CLASS:
            below.clear()
        images = [name for name in names if name.lower().endswith(_SUFFIXES) and not name.startswith(b".")]
        files += [os.path.join(where, name)[len(top) :] for name in images]
    return sorted(files)
