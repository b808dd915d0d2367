"""CIFAR-10 from the folder `cifar-10-batches-py`, downloaded if asked."""

from __future__ import annotations

import fcntl
import os
import shutil
import tarfile
import tempfile
from http.client import HTTPException
from pathlib import Path
from typing import Optional

import torch
from torch import Tensor
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import download_url

from common.cifar10 import FOLDER, META, find_batches, read_cifar10
from common.imagenet import ImageNetLayoutError, require
from run.errors import UserError
from run.images import Crop, cut


class Cifar10Images:
    """The 32 x 32 images of a split, in the order of the batch files; the test batch is the validation split.

    The files are pickles; `common.cifar10` reads them without running anything they call.

    Args:
        path: the folder `cifar-10-batches-py`, or the one that contains it.
        split: "train" or "validation".
        download: fetch the archive into `path` if it is not there. Any number of processes may ask at once.

    Raises:
        UserError: when files are missing, damaged, or hold anything but images and labels.
    """

    def __init__(self, path: str, split: str, download: bool) -> None:
        if download and not _is_there(path):
            _download(path)
        try:
            require(path, "cifar10", split)
            self._pixels, self._labels, self.classes = read_cifar10(Path(path), split)
        except (ImageNetLayoutError, ValueError, OSError) as error:
            remedy = "" if _is_there(path) else " --download fetches CIFAR-10 itself."
            raise UserError(f"{error}{remedy}") from error
        self.prefix = f"CIFAR-10 {split} image "

    def __len__(self) -> int:
        return len(self._labels)

    def name(self, index: int) -> str:
        """What a message calls image `index`."""
        return f"{self.prefix}{index}"

    def label(self, index: int) -> int:
        """Class number of image `index`."""
        return int(self._labels[index])

    def image(self, index: int, crop: Optional[Crop] = None) -> Tensor:
        """(3, 32, 32) uint8, or the part of it that `crop` chooses."""
        return cut(torch.from_numpy(self._pixels[index]).permute(2, 0, 1), crop)


def _is_there(path: str) -> bool:
    return (find_batches(Path(path)) / META).is_file()


def _download(path: str) -> None:
    """Fetch the archive, check its published digest and unpack it; the folder appears complete or not at all.

    Every process may call it: the first to get the lock downloads, the others find the folder.
    """
    try:
        os.makedirs(path, exist_ok=True)
        with open(os.path.join(path, ".cifar10.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # held until the file is closed
            if _is_there(path):
                return
            with tempfile.TemporaryDirectory(prefix=".cifar10-", dir=path) as scratch:
                download_url(CIFAR10.url, scratch, CIFAR10.filename, CIFAR10.tgz_md5)
                os.rename(unpacked(os.path.join(scratch, CIFAR10.filename), FOLDER), os.path.join(path, FOLDER))
    except (OSError, HTTPException, RuntimeError, tarfile.TarError) as error:
        raise UserError(
            f"CIFAR-10 could not be downloaded to {path} ({error}): "
            f"fetch {CIFAR10.url} some other way and unpack it there."
        ) from error


def unpacked(archive: str, folder: str) -> str:
    """Unpack a tar archive that holds the files of `folder` and nothing else, beside it; returns the folder's path.

    Raises:
        RuntimeError: it holds something else, such as a link or a path that leads elsewhere.
    """
    target = os.path.join(os.path.dirname(archive), folder)
    os.mkdir(target)
    with tarfile.open(archive) as tar:
        for member in tar:
            place, _, name = member.name.rpartition("/")
            if member.isdir() and member.name == folder:
                continue
            content = (
                tar.extractfile(member) if member.isfile() and place == folder and name not in ("", "..") else None
            )
            if content is None:
                raise RuntimeError(f"the archive holds {member.name}, which is no file of {folder}")
            with open(os.path.join(target, name), "xb") as file:
                shutil.copyfileobj(content, file)
    return target
