"""The order of samples, known for every step of a run and the same for any number of workers."""

from __future__ import annotations

import threading
from typing import Dict, Tuple

import numpy as np

from errors import UserError


class TrainingOrder:
    """Which samples a worker takes at a step: its contiguous share of a global batch of that epoch's permutation.

    The last partial batch of an epoch is dropped, and with it other samples in every epoch. Threads may share one.

    Args:
        samples: in the data set.
        batch_size: of one worker.
        seed: of the permutations.
        shard: (this worker, number of workers).

    Raises:
        UserError: fewer samples than a global batch.
    """

    def __init__(self, samples: int, batch_size: int, seed: int, shard: Tuple[int, int] = (0, 1)) -> None:
        index, count = shard
        assert 0 <= index < count
        self.samples = samples
        self.seed = seed
        self.global_batch = batch_size * count
        self.steps_per_epoch = samples // self.global_batch
        if not self.steps_per_epoch:
            raise UserError(
                f"The data set has {samples} samples, fewer than one global batch of {self.global_batch}: "
                "make the batch smaller"
            )
        self._share = slice(index * batch_size, (index + 1) * batch_size)
        self._permutations: Dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def rows(self, step: int) -> Tuple[int, np.ndarray]:
        """Epoch of `step`, and this worker's sample numbers (batch_size,) int64 in it."""
        epoch, within = divmod(step, self.steps_per_epoch)
        batch = self._permutation(epoch)[within * self.global_batch : (within + 1) * self.global_batch]
        return epoch, batch[self._share]

    def _permutation(self, epoch: int) -> np.ndarray:
        with self._lock:  # several steps are read ahead at once, over the end of an epoch too
            if epoch not in self._permutations:
                self._permutations = {e: p for e, p in self._permutations.items() if e == epoch - 1}
                self._permutations[epoch] = permutation(self.samples, self.seed, epoch)
            return self._permutations[epoch]


class EvaluationOrder:
    """Every sample once over all workers, each taking one contiguous part, padded so that all make as many steps."""

    def __init__(self, samples: int, batch_size: int, shard: Tuple[int, int] = (0, 1)) -> None:
        index, count = shard
        assert 0 <= index < count
        self.samples = samples
        self.batch_size = batch_size
        self.steps = -(-samples // (batch_size * count))
        self._first = index * self.steps * batch_size

    def rows(self, step: int) -> Tuple[int, np.ndarray]:
        """0, and this worker's sample numbers (batch_size,) int64; those of `samples` and above are padding."""
        start = self._first + step * self.batch_size
        return 0, np.arange(start, start + self.batch_size)


def permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    """Order of `count` samples in an epoch.

    Sorting the raw words of a counter-based generator, unlike NumPy's own shuffle, is guaranteed not to change between
    versions.
    """
    generator = np.random.Philox(np.random.SeedSequence([seed % 2**64, epoch]))
    return np.argsort(generator.random_raw(count), kind="stable")


def augmentation_key(seed: int, epoch: int) -> int:
    """The first word of the seeds of an epoch's augmentation; the second is the sample's number."""
    word = np.random.SeedSequence([seed % 2**64, epoch, 1]).generate_state(1, np.uint64)[0]
    return int(word >> np.uint64(2))  # room for the draws to be told apart by adding to it
