"""CIFAR-100 from the folder `cifar-100-python`, downloaded if asked: 100 fine labels."""

from __future__ import annotations

import fcntl
import os
import tarfile
import tempfile
from http.client import HTTPException
from pathlib import Path

from torchvision.datasets import CIFAR100
from torchvision.datasets.utils import download_url

from common.cifar10 import CIFAR100_FOLDER, find_cifar100, read_cifar100
from dataset.cifar10 import Cifar10Images, unpacked
from run.errors import UserError


class Cifar100Images(Cifar10Images):
    """The 32 x 32 images of a split, in the order of the file; the test file is the validation split.

    Args:
        path: the folder `cifar-100-python`, or the one that contains it.
        split: "train" or "validation".
        download: fetch the archive into `path` if it is not there. Any number of processes may ask at once.

    Raises:
        UserError: when files are missing, damaged, or hold anything but images and labels.
    """

    def __init__(self, path: str, split: str, download: bool) -> None:
        is_there = find_cifar100(Path(path)).is_dir()
        if download and not is_there:
            _download(path)
        elif not is_there:
            raise UserError(f"{path} has no {CIFAR100_FOLDER} folder: --download fetches CIFAR-100, or unpack it there")
        try:
            self._pixels, self._labels, self.classes = read_cifar100(Path(path), split)
        except (ValueError, OSError) as error:
            raise UserError(f"{error}: unpack cifar-100-python.tar.gz again") from error
        self.prefix = f"CIFAR-100 {split} image "


def _download(path: str) -> None:
    """Fetch the archive, check its published digest and unpack it; the folder appears complete or not at all."""
    try:
        os.makedirs(path, exist_ok=True)
        with open(os.path.join(path, ".cifar100.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # held until the file is closed
            if find_cifar100(Path(path)).is_dir():
                return
            with tempfile.TemporaryDirectory(prefix=".cifar100-", dir=path) as scratch:
                download_url(CIFAR100.url, scratch, CIFAR100.filename, CIFAR100.tgz_md5)
                folder = unpacked(os.path.join(scratch, CIFAR100.filename), CIFAR100_FOLDER)
                os.rename(folder, os.path.join(path, CIFAR100_FOLDER))
    except (OSError, HTTPException, RuntimeError, tarfile.TarError) as error:
        raise UserError(
            f"CIFAR-100 could not be downloaded to {path} ({error}): "
            f"fetch {CIFAR100.url} some other way and unpack it there."
        ) from error
