"""The Python side of a pipeline: what its graph calls to read images, and to say which it could not decode."""

from __future__ import annotations

from typing import Callable, Tuple

import numpy as np

from dataset.bad_images import BadImages, reason
from dataset.index import Index
from dataset.order import augmentation_key
from dataset.reading import RecordReader
from errors import UserError

MAX_BAD_IN_A_ROW = 32


class Source:
    """Images in the order of `rows`: step -> (epoch, sample numbers), those past the last sample being padding."""

    def __init__(
        self, index: Index, rows: Callable[[int], Tuple[int, np.ndarray]], bad_images: BadImages, seed: int = 0
    ) -> None:
        self._index = index
        self._rows = rows
        self._bad_images = bad_images
        self._seed = seed
        self._reader = RecordReader(index)

    def chunk(self, number: int, rows: int, parts: int) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Part of a step: encoded images (c,), labels (c,) with -1 for padding, seeds (c, 2) of (epoch, sample)."""
        step, part = divmod(int(number), parts)
        epoch, numbers = self._rows(step)
        numbers = numbers[part * rows : (part + 1) * rows]
        samples = numbers % len(self._index.entries)
        labels = np.where(numbers == samples, self._reader.labels(samples), np.int32(-1))
        keys = np.stack([np.full_like(samples, augmentation_key(self._seed, epoch)), samples], 1)
        return self._reader.read_many(samples), labels, keys

    def candidate(self, number: int, offset: int) -> Tuple[bytes, np.ndarray]:
        """The `offset`-th image after `number`, round the end, and its label."""
        found = (int(number) + int(offset)) % len(self._index.entries)
        return self._reader.read(found), self._reader.labels(np.asarray(found))

    def replaced(self, number: int, offset: int) -> np.int64:
        """List the images `number` … `number + offset - 1` as bad."""
        for step in range(int(offset)):
            bad = (int(number) + step) % len(self._index.entries)
            self._bad_images.record(self._index.name(bad), reason(self._reader.read(bad)))
        return np.int64(offset)

    def none_good(self, number: int) -> np.int64:
        """Stop the run: a whole row of images is bad."""
        raise UserError(
            f"{MAX_BAD_IN_A_ROW} images in a row cannot be decoded, first {self._index.name(int(number))}: "
            "check the shards with preprocess_imagenet.py --verify"
        )
