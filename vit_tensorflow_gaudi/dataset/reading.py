"""Reads of single images out of the shards, by number, from several threads."""

from __future__ import annotations

import os
import resource
import weakref
from typing import List

import numpy as np

from dataset.index import Index

_OTHER_FILES = 128  # that the process may have open besides


class RecordReader:
    """Encoded images by their number in `index`. Shards stay open as far as the system allows that many files."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._descriptors: List[int] = []
        if _may_open(len(index.files)):
            self._descriptors = [os.open(path, os.O_RDONLY) for path in index.files]
        weakref.finalize(self, _close, self._descriptors)

    def read(self, number: int) -> bytes:
        """The encoded image; fewer bytes, or none, where the disk or the file fails: its decoding will tell."""
        shard, offset, size, _ = self._index.entries[number].tolist()
        try:
            if self._descriptors:
                return os.pread(self._descriptors[shard], size, offset)
            descriptor = os.open(self._index.files[shard], os.O_RDONLY)
            try:
                return os.pread(descriptor, size, offset)
            finally:
                os.close(descriptor)
        except OSError:
            return b""

    def read_many(self, numbers: np.ndarray) -> np.ndarray:
        """(n,) numbers -> (n,) bytes objects."""
        images = np.empty(len(numbers), object)
        images[:] = [self.read(int(number)) for number in numbers]
        return images

    def labels(self, numbers: np.ndarray) -> np.ndarray:
        """(n,) numbers -> (n,) int32 labels from 0."""
        return self._index.entries["label"][numbers]


def _may_open(count: int) -> bool:
    wanted = count + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted and (hard == resource.RLIM_INFINITY or hard >= 2 * wanted):
        resource.setrlimit(resource.RLIMIT_NOFILE, (2 * wanted, hard))
        return True
    return soft == resource.RLIM_INFINITY or soft >= wanted


def _close(descriptors: List[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
