"""`AsynchronousDataAccessor`: combined batches are put together in the background, up to `buffer_size` ahead.

A thread pulls from the data source, glues and pins; the loading itself belongs in the worker processes of a torch
DataLoader, whose iterators are created and ended in the caller's thread. Unlike the SDK's ring of shared memory,
a batch is never overwritten after it was handed out.
"""

from __future__ import annotations

import queue
import threading
import weakref
from typing import Any, Callable, Iterable, Iterator, List, Optional, Union

import torch
from torch import Tensor

from poptorch_host.enums import SharingStrategy
from poptorch_host.errors import Error
from poptorch_host.logs import without_effect


class _End:
    """The last thing a thread puts into its queue: the error that stopped it, or None."""

    def __init__(self, error: Optional[BaseException] = None) -> None:
        self.error = error


class _Feed:
    """A thread that fills a queue from an iterator, until that ends or `close` is called."""

    def __init__(self, source: Any, batches: Iterator[Any], buffer_size: int) -> None:
        self.used = False
        self._source = source
        self._queue: queue.Queue[Any] = queue.Queue(buffer_size)
        self._stop = threading.Event()
        self._end: Optional[_End] = None
        self._thread = threading.Thread(
            target=_fill, args=(batches, self._queue, self._stop), name="poptorch data accessor", daemon=True
        )
        self._thread.start()

    def get(self) -> Any:
        """Return the next batch, or the `_End`."""
        if self._end is not None:
            return self._end
        item = self._queue.get()
        if isinstance(item, _End):
            self._end = item
            self._thread.join()
        return item

    def close(self) -> None:
        """End the thread; what it had loaded is dropped."""
        self._stop.set()
        while self._thread.is_alive():
            _drain(self._queue)
            self._thread.join(0.01)
        _drain(self._queue)
        failed = self._end is not None and self._end.error is not None
        if failed and hasattr(self._source, "_shutdown_workers"):
            self._source._shutdown_workers()  # it lives on in the error's traceback
        self._end = self._end or _End()
        self._source = None


def _fill(batches: Iterator[Any], filled: queue.Queue[Any], stop: threading.Event) -> None:
    end = _End()
    try:
        for batch in batches:
            if stop.is_set():
                return
            filled.put(batch)
    except BaseException as error:  # whatever it is, the consumer has to hear of it
        end = _End(error)
    filled.put(end)


def _drain(filled: queue.Queue[Any]) -> None:
    while True:
        try:
            filled.get_nowait()
        except queue.Empty:
            return


class AsynchronousDataAccessor:
    """Iterate over a data source in the background.

    Each iteration ends where the source's does. Tuples come back as lists; dicts, lists and single tensors as
    such.

    Args:
        dataset: any iterable of batches. One that draws random numbers or is slow should do so in processes of
            its own, as a torch DataLoader with workers does: this class adds only a thread.
        buffer_size: batches that may be ready in advance.
        miss_sleep_time_in_ms: accepted; waiting here needs no polling.
        load_indefinitely: begin the next iteration as soon as one has ended.
        early_preload: begin the first iteration at once.
        sharing_strategy: accepted; there is no data set to hand over.
        rebatched_size: glue and cut batches so that each has this many rows. The last, short one is dropped unless
            the source has `rebatched_drop_last` False.

    Errors: what goes wrong in the source arrives as AssertionError with the original as its cause, before the
    first batch as `poptorch.Error`.
    """

    def __init__(
        self,
        dataset: Iterable[Any],
        buffer_size: int = 3,
        miss_sleep_time_in_ms: float = 0.1,
        load_indefinitely: bool = True,
        early_preload: bool = False,
        sharing_strategy: SharingStrategy = SharingStrategy.ForkServer,
        rebatched_size: Optional[int] = None,
    ) -> None:
        assert buffer_size > 0, f"buffer_size must be positive, not {buffer_size}"
        if miss_sleep_time_in_ms != 0.1 or sharing_strategy != SharingStrategy.ForkServer:
            without_effect("AsynchronousDataAccessor's miss_sleep_time_in_ms and sharing_strategy")
        self.rebatched_size = rebatched_size
        self._dataset = dataset
        self._buffer_size = buffer_size
        self._load_indefinitely = load_indefinitely
        self._pin_memory = bool(getattr(dataset, "pin_batches", False)) and torch.cuda.is_available()
        self._feeds: List[_Feed] = []  # at most one
        self._iterating = False
        self._anything_loaded = False
        self._finalizer = weakref.finalize(self, _close, self._feeds)
        if early_preload:
            self._start()

    def __len__(self) -> int:
        return len(self._dataset)  # type: ignore[arg-type]

    def __iter__(self) -> AsynchronousDataAccessor:
        if not self._feeds or self._feeds[0].used:
            self._start()
        self._iterating = True
        return self

    def __next__(self) -> Any:
        if not self._iterating:
            raise StopIteration
        feed = self._feeds[0]
        feed.used = True
        item = feed.get()
        if not isinstance(item, _End):
            self._anything_loaded = True
            return item
        self._iterating = False
        _close(self._feeds)
        if item.error is not None:
            self._fail(item.error)
        if self._load_indefinitely:
            self._start()
        raise StopIteration

    def _start(self) -> None:
        _close(self._feeds)
        source = iter(self._dataset)
        _watch_by_polling(source)
        batches = source
        if self.rebatched_size is not None:
            batches = rebatch(batches, self.rebatched_size, getattr(self._dataset, "rebatched_drop_last", True))
        self._feeds.append(_Feed(source, _prepared(batches, self._pin_memory), self._buffer_size))

    def _fail(self, error: BaseException) -> None:
        self.terminate()
        if self._anything_loaded:
            raise AssertionError(f"An error occurred in the data fetcher: {error!r}") from error
        raise Error(f"The data accessor failed to start: {error!r}") from error

    def terminate(self) -> None:
        """End the thread, and the source's worker processes if it has any; a new iteration starts them again."""
        self._iterating = False
        _close(self._feeds)
        if isinstance(self._dataset, torch.utils.data.DataLoader):
            end_workers(self._dataset)


def end_workers(loader: torch.utils.data.DataLoader[Any]) -> None:
    """Let go of a loader's persistent iterator, which ends its worker processes."""
    loader._iterator = None


def _watch_by_polling(batches: Any) -> None:
    """Keep torch's SIGCHLD handler off an iterator's workers.

    It raises in whatever the main thread happens to do. The iterator itself notices a dead worker too, within
    five seconds, in the thread that reads from it.
    """
    if getattr(batches, "_worker_pids_set", False):
        torch._C._remove_worker_pids(id(batches))
        batches._worker_pids_set = False


def _close(feeds: List[_Feed]) -> None:
    while feeds:
        feeds.pop().close()


def _prepared(batches: Iterator[Any], pin_memory: bool) -> Iterator[Any]:
    for batch in batches:
        batch = list(batch) if isinstance(batch, tuple) else batch
        yield _each(batch, Tensor.pin_memory) if pin_memory else batch


def _each(batch: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply a function to the tensors of a batch: a tensor, or a list or dict of tensors."""
    if isinstance(batch, dict):
        return {key: _each(value, function) for key, value in batch.items()}
    if isinstance(batch, list):
        return [_each(value, function) for value in batch]
    return function(batch) if isinstance(batch, Tensor) else batch


def rebatch(batches: Iterator[Any], size: int, drop_last: bool) -> Iterator[Any]:
    """Glue and cut batches along dimension 0 into such of `size` rows, in order.

    A batch is a tensor, or a flat sequence or dict of tensors with equal numbers of rows (else AssertionError).
    """
    parts: List[List[Tensor]] = []  # batches not yet handed out, as lists of tensors
    rows = 0
    kind: Any = None
    for batch in batches:
        kind = batch
        part = _columns(batch)
        parts.append(part)
        rows += len(part[0])
        while rows >= size:
            columns, parts = _take(parts, size)
            rows -= size
            yield _like(kind, columns)
    if rows and not drop_last:
        yield _like(kind, _take(parts, rows)[0])


def _columns(batch: Any) -> List[Tensor]:
    values = [batch] if isinstance(batch, Tensor) else list(batch.values() if isinstance(batch, dict) else batch)
    for index, value in enumerate(values):
        assert isinstance(value, Tensor), f"rebatching needs tensors, entry {index} is a {type(value).__name__}"
    assert len({len(value) for value in values}) == 1, "rebatching needs the same number of rows in each tensor"
    return values


def _take(parts: List[List[Tensor]], size: int) -> Any:
    """Return the first `size` rows of the parts, glued, and the parts that remain."""
    taken: List[List[Tensor]] = []
    while size:
        part = parts.pop(0)
        n = min(size, len(part[0]))
        taken.append([column[:n] for column in part])
        if n < len(part[0]):
            parts.insert(0, [column[n:] for column in part])
        size -= n
    glued = [columns[0] if len(columns) == 1 else torch.cat(columns) for columns in zip(*taken)]
    return glued, parts


def _like(batch: Any, columns: List[Tensor]) -> Union[Tensor, List[Tensor], Any]:
    if isinstance(batch, Tensor):
        return columns[0]
    return dict(zip(batch, columns)) if isinstance(batch, dict) else columns
