"""Which rows of a map-style data set make up each combined batch, in which order, and on which process.

Everything here works on indices and is repeatable: the order depends on the seed and on how many epochs have
begun, never on worker processes.
"""

from __future__ import annotations

from typing import Iterator, List, NamedTuple, Optional, Sequence, Sized

import torch
from torch.utils.data import Sampler


class Deal(NamedTuple):
    """How a combined batch of all replicas is dealt out: to process `process_id` of `num_processes`.

    `groups` is DI · GA, the number of times that all replicas take a micro-batch each.
    """

    groups: int
    replicas: int
    process_id: int
    num_processes: int

    def rows(self, batch: Sequence[int]) -> List[int]:
        """Return this process's part of a combined batch.

        Rows are ordered by device iteration, accumulation step, replica, sample, and a process owns the replicas
        p·R/P … (p+1)·R/P-1. A last, short batch that isn't whole for every replica is cut into P runs instead.
        """
        n, p, processes = len(batch), self.process_id, self.num_processes
        if n % (self.groups * self.replicas):
            return list(batch[n * p // processes : n * (p + 1) // processes])
        group = n // self.groups
        share = group // processes
        return [row for g in range(self.groups) for row in batch[g * group + p * share :][:share]]


class EpochOrder(Sampler[int]):
    """The rows 0 … n-1 in their order, or in a new random one for each epoch, the same in every process."""

    def __init__(self, n: int, shuffle: bool, seed: int) -> None:
        self._n = n
        self._generator = torch.Generator().manual_seed(seed) if shuffle else None

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[int]:
        if self._generator is None:
            return iter(range(self._n))
        return iter(torch.randperm(self._n, generator=self._generator).tolist())


class ContiguousShare(Sampler[int]):
    """One process's run of an epoch's rows, PopTorch's way.

    Every process gets floor(n / (combined · P)) · combined rows; of shuffled rows the run begins later by the
    number left over in every other epoch, so that these get used. With `drop_last` False the shares are
    near-equal instead.
    """

    def __init__(self, order: EpochOrder, combined: int, process_id: int, num_processes: int, drop_last: bool) -> None:
        n = len(order)
        self._order = order
        self._leftover = 0
        if drop_last:
            self._length = combined * (n // (combined * num_processes))
            self._start = process_id * self._length
            if order._generator is not None and self._length:
                self._leftover = n % self._length
        else:
            bounds = [p * (n // num_processes) + min(p, n % num_processes) for p in (process_id, process_id + 1)]
            self._start, self._length = bounds[0], bounds[1] - bounds[0]
        self._late = False

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        self._late = not self._late
        start = self._start + (self._leftover if self._late else 0)
        return iter(list(self._order)[start : start + self._length])


class CombinedBatches(Sampler[List[int]]):
    """The combined batches of an epoch: runs of `size` rows of `order`, dealt out if there is a `deal`."""

    def __init__(self, order: Sized, size: int, drop_last: bool, deal: Optional[Deal] = None) -> None:
        self._order = order
        self._size = size
        self._drop_last = drop_last
        self._deal = deal

    def __len__(self) -> int:
        whole, rest = divmod(len(self._order), self._size)
        return whole + bool(rest and not self._drop_last and self._dealt(range(rest)))

    def __iter__(self) -> Iterator[List[int]]:
        for batch in in_runs(self._order, self._size):  # type: ignore[arg-type]
            if len(batch) == self._size or not self._drop_last:
                rows = self._dealt(batch)
                if rows:
                    yield rows

    def _dealt(self, batch: Sequence[int]) -> List[int]:
        return list(batch) if self._deal is None else self._deal.rows(batch)


class WorkerBatches(Sampler[List[int]]):
    """The rows of combined batches, one after another, in runs of `size`."""

    def __init__(self, batches: CombinedBatches, size: int) -> None:
        self._batches = batches
        self._size = size

    def __iter__(self) -> Iterator[List[int]]:
        return in_runs((row for batch in self._batches for row in batch), self._size)


def in_runs(rows: Iterator[int], size: int) -> Iterator[List[int]]:
    """Yield lists of `size` rows; the last one may be shorter."""
    run: List[int] = []
    for row in rows:
        run.append(row)
        if len(run) == size:
            yield run
            run = []
    if run:
        yield run
