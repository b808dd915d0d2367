"""Loading in the background: containers, look-ahead, failures, and that nothing stays behind."""

import gc
import multiprocessing
import os
import time
import weakref

import pytest
import torch

from poptorch_host.async_accessor import AsynchronousDataAccessor, rebatch
from poptorch_host.dataloader import DataLoader
from poptorch_host.enums import SharingStrategy
from poptorch_host.errors import Error

from .loading import ASYNC, REBATCHED, Rows, epoch, options_for, running, settle


@pytest.fixture(autouse=True)
def _nothing_left_behind():
    before = running()
    yield
    if len(running()) > len(before):
        gc.collect()  # a test that failed keeps its frames
    settle(lambda: len(running()) <= len(before))


def test_containers():
    tensor, other = torch.arange(4), torch.arange(4) * 10
    for batch, expected in [
        (tensor, torch.Tensor),
        ((tensor, other), list),
        ([tensor, other], list),
        ({"a": tensor, "b": other}, dict),
    ]:
        for size in (None, 2):
            (got, *_) = list(AsynchronousDataAccessor([batch], load_indefinitely=False, rebatched_size=size))
            assert type(got) is expected
            values = list(got.values()) if isinstance(got, dict) else got
            first = values if isinstance(got, torch.Tensor) else values[0]
            assert first.tolist() == [0, 1, 2, 3][:size]


def test_rebatch_keeps_columns_together():
    parts = [(torch.arange(k), torch.arange(k) + 100) for k in (1, 4, 2)]
    glued = list(rebatch(iter(parts), 3, drop_last=False))
    assert [a.tolist() for a, _ in glued] == [[0, 0, 1], [2, 3, 0], [1]]
    assert all(torch.equal(a + 100, b) for a, b in glued)


@pytest.mark.parametrize("batch", [("text",), (torch.ones(2), torch.ones(3))])
def test_rebatch_needs_tensors_of_equal_length(batch):
    with pytest.raises(AssertionError, match="rebatching needs"):
        list(rebatch(iter([batch]), 1, drop_last=False))


def test_yielded_tensors_are_not_overwritten():
    loader = DataLoader(options_for(), Rows(12), 2, mode=ASYNC, async_options={"buffer_size": 1})
    kept = list(loader)
    list(loader)
    assert [batch.tolist() for batch in kept] == [[k, k + 1] for k in range(0, 12, 2)]


class Counting:
    """An iterable that counts how often it was begun and how many items it gave."""

    def __init__(self, n):
        self.n = n
        self.begun = 0
        self.given = 0

    def __len__(self):
        return self.n

    def __iter__(self):
        self.begun += 1
        for item in range(self.n):
            self.given += 1
            yield torch.tensor([item])


def test_buffer_size_bounds_what_is_loaded_ahead():
    source = Counting(20)
    accessor = AsynchronousDataAccessor(source, buffer_size=2)
    assert source.begun == 0
    next(iter(accessor))
    settle(lambda: source.given == 4)  # one taken, two ready, one waiting for its place
    time.sleep(0.05)
    assert source.given == 4


def test_early_preload_begins_at_once():
    source = Counting(3)
    accessor = AsynchronousDataAccessor(source, early_preload=True, sharing_strategy=SharingStrategy.Fork)
    settle(lambda: source.given == 3)
    assert [int(item) for item in accessor] == [0, 1, 2]


@pytest.mark.parametrize(("load_indefinitely", "begun"), [(True, 2), (False, 1)])
def test_load_indefinitely_begins_the_next_iteration_at_the_end(load_indefinitely, begun):
    source = Counting(3)
    accessor = AsynchronousDataAccessor(source, load_indefinitely=load_indefinitely)
    assert len(accessor) == 3
    assert [int(item) for item in accessor] == [0, 1, 2]
    assert source.begun == begun
    with pytest.raises(StopIteration):
        next(accessor)
    assert [int(item) for item in accessor] == [0, 1, 2]
    assert source.begun == 2 * begun - (begun - 1)


@pytest.mark.parametrize("end", ["terminate", "del", "exhaust"])
@pytest.mark.parametrize("workers", [0, 2])
def test_no_thread_or_process_is_left(end, workers):
    before = running()
    loader = DataLoader(options_for(), Rows(40), 2, None, workers, mode=ASYNC)
    iterator = iter(loader)
    next(iterator)
    started = running()[len(before) :]
    assert "poptorch data accessor" in started
    assert len(multiprocessing.active_children()) == max(workers, 1)
    del iterator
    if end == "terminate":
        loader.terminate()
    elif end == "del":
        del loader
    else:
        list(loader)
        loader.terminate()  # the next epoch had begun
    settle(lambda: running() == before)


def test_a_terminated_loader_can_be_used_again():
    loader = DataLoader(options_for(), Rows(4), 2, mode=ASYNC)
    iterator = iter(loader)
    next(iterator)
    loader.terminate()
    with pytest.raises(StopIteration):
        next(iterator)
    assert epoch(loader) == [[0, 1], [2, 3]]


def test_terminate_ends_the_workers_of_a_synchronous_loader():
    loader = DataLoader(options_for(), Rows(8), 2, num_workers=1)
    assert len(epoch(loader)) == 4
    assert len(multiprocessing.active_children()) == 1
    loader.terminate()
    settle(lambda: not multiprocessing.active_children())


def test_the_loader_is_freed_by_its_last_reference():
    gc.disable()
    try:
        loader = DataLoader(options_for(), Rows(8), 2, mode=ASYNC)
        next(iter(loader))
        watch = weakref.ref(loader)
        del loader
        assert watch() is None
    finally:
        gc.enable()


class Dying(Rows):
    """The worker process dies at a row."""

    def __init__(self, n, at):
        super().__init__(n)
        self.at = at

    def __getitem__(self, index):
        if index == self.at:
            os._exit(3)
        return torch.tensor(index)


class Failing(Dying):
    def __getitem__(self, index):
        if index == self.at:
            raise KeyError("row is broken")
        return torch.tensor(index)


@pytest.mark.parametrize(("kind", "mode"), [(Dying, ASYNC), (Failing, ASYNC), (Failing, REBATCHED)])
def test_a_failing_worker_raises_assertion_error(kind, mode):
    loader = DataLoader(options_for(), kind(40, 31), 2, mode=mode)
    iterator = iter(loader)
    assert next(iterator).tolist() == [0, 1]
    with pytest.raises(AssertionError, match="data fetcher") as info:
        list(iterator)
    assert isinstance(info.value.__cause__, (RuntimeError, OSError, EOFError) if kind is Dying else KeyError)


@pytest.mark.parametrize("kind", [Dying, Failing])
def test_a_worker_failing_at_the_start_raises_error(kind):
    loader = DataLoader(options_for(), kind(4, 0), 2, mode=ASYNC)
    with pytest.raises(Error, match="failed to start"):
        next(iter(loader))


def test_an_accessor_can_be_used_after_a_failure():
    source = iter([torch.tensor([1])])

    class Once:
        def __iter__(self):
            yield next(source)
            raise ValueError("gone")

    accessor = AsynchronousDataAccessor(Once())
    with pytest.raises(AssertionError, match="gone"):
        list(accessor)
    with pytest.raises(StopIteration):
        next(accessor)


def test_batches_are_pinned_once_glued(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self + 100)
    for mode in (ASYNC, REBATCHED):
        loader = DataLoader(options_for(), Rows(4), 2, mode=mode, pin_memory=True, rebatched_worker_size=1)
        assert epoch(loader) == [[100, 101], [102, 103]]
