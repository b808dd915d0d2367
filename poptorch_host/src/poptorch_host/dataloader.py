"""`DataLoader`: torch's, with batches as large as one call of a wrapped model needs.

Unlike the SDK's, order and worker seeds come from generators of the loader's own (seeded by `Options.randomSeed`,
else by torch's initial seed), so they depend neither on the number of workers nor on the main program's draws.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Optional, Union

import torch
from torch.utils.data import Dataset, IterableDataset, Sampler

from poptorch_host.async_accessor import AsynchronousDataAccessor, end_workers
from poptorch_host.enums import DataLoaderMode
from poptorch_host.errors import Error
from poptorch_host.logs import logger
from poptorch_host.options import Options
from poptorch_host.sampling import CombinedBatches, ContiguousShare, Deal, EpochOrder, WorkerBatches

_TorchLoader = torch.utils.data.DataLoader
_STREAM_OF_A_PROCESS = 1_000_003  # keeps the workers' seeds of different processes apart


class DataLoader(_TorchLoader[Any]):
    """Loads combined batches: DI · GA · R · `batch_size` rows, in the order in which the device takes them.

    Under a launcher with P processes a batch holds the rows of this process's R/P replicas of the very order that
    a single process would see. If the program itself calls `options.Distributed.configureProcessId`, each process
    instead gets a contiguous share of the data set, as in PopTorch.

    Args:
        options: fixes DI, GA and R, and is frozen.
        dataset: map-style, or iterable, which is never divided between processes.
        batch_size: rows of one micro-batch of one replica. None leaves batches to the data set.
        shuffle: a new order in each epoch, from `options.randomSeed` where that is set.
        num_workers: worker processes. The asynchronous modes use at least one.
        drop_last: leave out the last, short batch.
        persistent_workers: keep the workers between epochs; by default if there are any.
        auto_distributed_partitioning: False if `dataset` holds this process's rows only.
        mode: Sync; Async, through an `AsynchronousDataAccessor`; AsyncRebatched, where workers load
            `rebatched_worker_size` rows at a time (default: the combined size) which the accessor glues together.
        async_options: for the accessor.
        batch_sampler: yields the rows of one combined batch of this process at a time; excludes `batch_size`,
            `shuffle` and `sampler`.
        kwargs: for torch's loader, among them `sampler` (the order of all rows), `collate_fn`, `worker_init_fn`,
            `pin_memory`, `generator`, `timeout`.

    Errors: AssertionError if `options` are none of PopTorch's, for a shuffled data set on several processes without
    `randomSeed`, and for a `rebatched_worker_size` above the combined size; `poptorch.Error` if the replicas can't
    be dealt out to the processes or an asynchronous loader's data set holds no whole batch.
    """

    def __init__(
        self,
        options: Options,
        dataset: Dataset[Any],
        batch_size: Optional[int] = 1,
        shuffle: Optional[bool] = None,
        num_workers: int = 0,
        drop_last: bool = True,
        persistent_workers: Optional[bool] = None,
        auto_distributed_partitioning: bool = True,
        mode: DataLoaderMode = DataLoaderMode.Sync,
        async_options: Optional[Dict[str, Any]] = None,
        rebatched_worker_size: Optional[int] = None,
        batch_sampler: Optional[Union[Sampler[List[int]], List[List[int]]]] = None,
        **kwargs: Any,
    ) -> None:
        assert isinstance(options, Options), f"options must be poptorch.Options, not {type(options).__name__}"
        options._freeze()
        # set first, as torch's __init__ reads the length
        self._accessor: Optional[AsynchronousDataAccessor] = None
        self._options = options
        self._dealt = auto_distributed_partitioning and not isinstance(dataset, IterableDataset)
        self._combined_batch_size = None if batch_size is None else batch_size * self._micro_batches()
        self._batches: Any = batch_sampler
        own_order = batch_sampler is None and "sampler" not in kwargs
        self._check(dataset, bool(shuffle), auto_distributed_partitioning, num_workers, kwargs)

        arguments = self._order(dataset, bool(shuffle), drop_last, kwargs)
        workers: Dict[str, Any] = {
            "num_workers": num_workers,
            "persistent_workers": num_workers > 0 if persistent_workers is None else persistent_workers,
        }
        super().__init__(dataset, **arguments, **workers)
        if mode != DataLoaderMode.Sync:
            if num_workers == 0:
                workers = {"num_workers": 1, "persistent_workers": persistent_workers is not False}
            worker_size = self._worker_size(mode, drop_last, rebatched_worker_size)
            source = _source(dataset, {**arguments, **workers}, worker_size)
            source.rebatched_drop_last = drop_last
            choices = {"load_indefinitely": own_order, **(async_options or {})}
            assert "rebatched_size" not in choices, "rebatched_size follows from the options: leave it out"
            size = self._combined_batch_size if worker_size else None
            self._accessor = AsynchronousDataAccessor(source, rebatched_size=size, **choices)

    def _micro_batches(self) -> int:
        options = self._options
        return options.device_iterations * options.Training.gradient_accumulation * options.local_replicas

    def _check(self, dataset: Any, shuffle: bool, divided: bool, num_workers: int, kwargs: Dict[str, Any]) -> None:
        distributed = self._options.Distributed
        several = divided and distributed.numProcesses > 1
        if isinstance(dataset, IterableDataset):
            assert not several, "auto_distributed_partitioning can't divide an IterableDataset: switch it off"
            if num_workers > 1 and "worker_init_fn" not in kwargs:
                logger.warning("each of %d workers returns every row: divide them by worker_init_fn", num_workers)
            return
        if several:
            assert self._batches is None, "batch_sampler can't be divided: set auto_distributed_partitioning=False"
            assert self._combined_batch_size is not None, "batch_size=None can't be divided between processes"
            assert not shuffle or self._options.exists("random_seed"), (
                "poptorch.Options.randomSeed() must be set so that all processes shuffle alike"
            )

    def _order(self, dataset: Any, shuffle: bool, drop_last: bool, kwargs: Dict[str, Any]) -> Dict[str, Any]:
        """Return torch's arguments that say which rows make up a batch, `kwargs` included."""
        given = kwargs.get("generator")
        seed = torch.initial_seed() if given is None else given.initial_seed()
        seed = self._options.random_seed if self._options.exists("random_seed") else seed
        arguments: Dict[str, Any] = {"generator": self._worker_seeds(seed), **kwargs}
        if isinstance(dataset, IterableDataset):
            size = self._combined_batch_size
            batching = {"batch_size": size, "shuffle": shuffle or None}
            return {**arguments, **batching, "drop_last": drop_last and size is not None}
        if self._batches is not None:
            return {**arguments, "batch_sampler": self._batches}
        assert not (shuffle and "sampler" in kwargs), "shuffle and sampler exclude each other"
        order = arguments.pop("sampler", None) or EpochOrder(len(dataset), shuffle, seed)
        if self._combined_batch_size is None:
            return {**arguments, "batch_size": None, "sampler": order}
        self._batches = self._combine(order, self._combined_batch_size, drop_last)
        return {**arguments, "batch_sampler": self._batches}

    def _combine(self, order: Any, size: int, drop_last: bool) -> CombinedBatches:
        distributed = self._options.Distributed
        deal = None
        if self._dealt and distributed.numProcesses > 1 and distributed.configured:
            assert isinstance(order, EpochOrder), "sampler can't be combined with configureProcessId"
            order = ContiguousShare(order, size, distributed.processId, distributed.numProcesses, drop_last)
        elif self._dealt and distributed.numProcesses > 1:
            process_id, processes, _ = distributed.launched
            groups = self._options.device_iterations * self._options.Training.gradient_accumulation
            deal = Deal(groups, self._options.replication_factor, process_id, processes)
            size *= processes
        rest = len(order) % size
        if rest and not drop_last:
            logger.warning("%d rows are no multiple of %d: the last batch has %d", len(order), size, rest)
        return CombinedBatches(order, size, drop_last, deal)

    def _worker_seeds(self, seed: int) -> torch.Generator:
        seed += self._options.Distributed.processId * _STREAM_OF_A_PROCESS
        return torch.Generator().manual_seed(seed % 2**63)

    def _worker_size(self, mode: DataLoaderMode, drop_last: bool, worker_size: Optional[int]) -> int:
        """Return the number of rows that workers load at a time for rebatching, 0 without rebatching."""
        combined = self._combined_batch_size
        if mode == DataLoaderMode.Async and drop_last:
            self._check_not_empty()
            return 0
        if combined is None or (mode == DataLoaderMode.Async and self._is_iterable()):
            return 0
        assert mode != DataLoaderMode.AsyncRebatched or combined > 1, (
            "AsyncRebatched needs a combined batch size above 1: use DataLoaderMode.Async"
        )
        assert worker_size is None or 0 < worker_size <= combined, (
            f"rebatched_worker_size ({worker_size}) must be at most the combined batch size ({combined})"
        )
        self._check_not_empty()
        return worker_size or combined

    def _is_iterable(self) -> bool:
        return isinstance(self.dataset, IterableDataset)

    def _check_not_empty(self) -> None:
        if not self._is_iterable() and len(self) == 0:
            rows = len(self.dataset)  # type: ignore[arg-type]
            raise Error(
                f"The data set's {rows} rows make no combined batch of {self._combined_batch_size}: "
                "use more data, a smaller batch, or drop_last=False"
            )

    @property
    def combinedBatchSize(self) -> Optional[int]:
        """The number of rows that one call of the model takes in this process; None with `batch_size=None`."""
        return self._combined_batch_size

    @property
    def options(self) -> Options:
        """The options given."""
        return self._options

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        return super().__iter__() if self._accessor is None else iter(self._accessor)

    def terminate(self) -> None:
        """End worker processes and the accessor's thread; a new iteration starts them again."""
        if self._accessor is not None:
            self._accessor.terminate()
        end_workers(self)


def _source(dataset: Any, arguments: Dict[str, Any], worker_size: int) -> Any:
    """Return the loader that an accessor draws from."""
    pin_memory = arguments.pop("pin_memory", False)
    if worker_size and "batch_sampler" in arguments:
        arguments["batch_sampler"] = WorkerBatches(arguments["batch_sampler"], worker_size)
    elif worker_size:
        arguments.update(batch_size=worker_size, drop_last=False)
    source = _TorchLoader(dataset, **arguments)
    source.pin_batches = pin_memory  # once glued
    return source
