"""The order of samples over a whole run, known for every update, so that a run can go on anywhere in it."""

from __future__ import annotations

from typing import Any, List, Optional, Protocol, Tuple

import numpy as np
from torch.utils.data import Dataset

from .errors import UserError


class Samples(Protocol):
    """A data set that draws its augmentation from (epoch, index)."""

    def __len__(self) -> int: ...

    def sample(self, epoch: int, index: int) -> Any:
        """Sample `index` as it is seen in `epoch`."""
        ...


class TrainingStream(Dataset):
    """All samples of the updates `start_update` … `updates`, in order, for one sequential loader.

    Every epoch has its own permutation, drawn from (seed, epoch) alone and the same with every version of NumPy and
    PyTorch. Its samples are cut into global batches; the last partial one is dropped, and with it other samples in
    every epoch. An update's rows are split into equal, contiguous shards, one for each process.

    Args:
        dataset: has `sample(epoch, index)`.
        seed: of the permutations.
        updates: of the whole run.
        global_batch: samples of one update over all processes.
        start_update: updates done before.
        shard: (this process, number of processes).

    Raises:
        UserError: fewer samples than one update takes, or a global batch that can't be split.
    """

    def __init__(
        self,
        dataset: Samples,
        *,
        seed: int,
        updates: int,
        global_batch: int,
        start_update: int = 0,
        shard: Tuple[int, int] = (0, 1),
    ) -> None:
        index, count = shard
        assert 0 <= index < count
        assert 0 <= start_update <= updates
        if global_batch % count:
            raise UserError("a global batch of %d can't be split over %d processes: change one" % (global_batch, count))
        self.updates_per_epoch = len(dataset) // global_batch
        if not self.updates_per_epoch:
            raise UserError(
                "the data set has %d samples, fewer than one global batch of %d: make the batch smaller"
                % (len(dataset), global_batch)
            )
        self.dataset = dataset
        self.seed = seed
        self.updates = updates
        self.start_update = start_update
        self.global_batch = global_batch
        self._rows = global_batch // count
        self._first_row = index * self._rows
        self._epoch: Optional[int] = None
        self._order = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return (self.updates - self.start_update) * self._rows

    def __getitem__(self, position: int) -> Any:
        if not 0 <= position < len(self):
            raise IndexError("sample %d of %d" % (position, len(self)))
        update, row = divmod(position, self._rows)
        epoch, within = divmod(self.start_update + update, self.updates_per_epoch)
        index = self._permutation(epoch)[within * self.global_batch + self._first_row + row]
        return self.dataset.sample(epoch, int(index))

    def sample_ids(self, update: int) -> List[int]:
        """Indices into the data set of all rows of an update, those of other processes included."""
        epoch, within = divmod(update, self.updates_per_epoch)
        order = self._permutation(epoch)
        return [int(index) for index in order[within * self.global_batch : (within + 1) * self.global_batch]]

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            self._order = permutation(len(self.dataset), self.seed, epoch)
            self._epoch = epoch
        return self._order


class EvaluationStream(Dataset):
    """Every sample exactly once over all shards, padded to full batches with repeats that are labelled -1.

    All shards are equally long, so that processes with fixed batch shapes make the same number of calls. A sample is
    (image, label); what is labelled -1 is not to be counted.

    Args:
        dataset: has `sample(epoch, index)`; evaluated as of epoch 0.
        multiple: samples that one process takes at a time.
        shard: (this process, number of processes).

    Raises:
        UserError: there are no samples.
    """

    def __init__(self, dataset: Samples, multiple: int, shard: Tuple[int, int] = (0, 1)) -> None:
        index, count = shard
        assert 0 <= index < count
        assert multiple > 0
        if not len(dataset):
            raise UserError("the evaluation data set is empty: check its path")
        self.dataset = dataset
        self._length = -(-len(dataset) // (multiple * count)) * multiple
        self._first = index * self._length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, position: int) -> Tuple[Any, Any]:
        if not 0 <= position < len(self):
            raise IndexError("sample %d of %d" % (position, len(self)))
        number = self._first + position
        image, label = self.dataset.sample(0, number % len(self.dataset))
        return image, label if number < len(self.dataset) else label * 0 - 1  # of the label's own type, as in its batch


def permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    """Order of `count` samples in an epoch.

    Sorting the raw words of a counter-based generator, unlike NumPy's and PyTorch's own shuffles, is guaranteed
    not to change between versions.
    """
    generator = np.random.Philox(np.random.SeedSequence([seed % 2**64, epoch]))
    return np.argsort(generator.random_raw(count), kind="stable")
