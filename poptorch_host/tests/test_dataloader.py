"""The data loader in one process: which rows come in which batch."""

import gc

import pytest
import torch
from torch.utils.data import TensorDataset

from poptorch_host.dataloader import DataLoader
from poptorch_host.enums import DataLoaderMode
from poptorch_host.logs import logger

from .loading import ASYNC, REBATCHED, SYNC, Rows, Stream, epoch, options_for, running, settle


@pytest.fixture(autouse=True)
def _nothing_left_behind():
    before = running()
    yield
    if len(running()) > len(before):
        gc.collect()  # a test that failed keeps its frames
    settle(lambda: len(running()) <= len(before))


# n, batch_size, drop_last, expected batches with DI = 2, GA = 1, R = 1
TABLE = [
    (8, 2, True, [[0, 1, 2, 3], [4, 5, 6, 7]]),
    (11, 2, True, [[0, 1, 2, 3], [4, 5, 6, 7]]),
    (11, 2, False, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]),
    (7, 1, True, [[0, 1], [2, 3], [4, 5]]),
    (3, 2, False, [[0, 1, 2]]),
]


@pytest.mark.parametrize(("mode", "workers"), [(SYNC, 0), (SYNC, 2), (ASYNC, 0), (ASYNC, 2), (REBATCHED, 1)])
@pytest.mark.parametrize(("n", "batch_size", "drop_last", "expected"), TABLE)
def test_order_in_each_mode(n, batch_size, drop_last, expected, mode, workers):
    loader = DataLoader(options_for(2), Rows(n), batch_size, None, workers, drop_last, mode=mode)
    assert len(loader) == len(expected)
    assert loader.combinedBatchSize == 2 * batch_size
    assert epoch(loader) == expected
    assert epoch(loader) == expected


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("worker_size", [1, 3, 4, 6])
def test_rebatching_glues_and_cuts_in_order(worker_size, drop_last):
    loader = DataLoader(
        options_for(3),
        Rows(21),
        2,
        num_workers=1,
        drop_last=drop_last,
        mode=REBATCHED,
        rebatched_worker_size=worker_size,
    )
    seen = epoch(loader)
    whole = [list(range(k, k + 6)) for k in (0, 6, 12)]
    assert seen == (whole if drop_last else [*whole, [18, 19, 20]])
    assert len(loader) == len(seen)


def test_collate_sees_worker_batches_when_rebatching():
    def collate(rows):
        return torch.stack(rows), torch.full((len(rows),), len(rows))

    loader = DataLoader(options_for(3), Rows(12), 2, mode=REBATCHED, rebatched_worker_size=4, collate_fn=collate)
    sizes = [batch[1].tolist() for batch in loader]
    assert sizes == [[4] * 6, [4] * 6]


def test_a_collate_function_may_lose_rows_of_a_worker_batch():
    def even(rows):  # as mixup, which pairs rows
        return torch.stack(rows[: len(rows) // 2 * 2])

    loader = DataLoader(options_for(2), Rows(12), 2, mode=REBATCHED, rebatched_worker_size=3, collate_fn=even)
    assert epoch(loader) == [[0, 1, 3, 4], [6, 7, 9, 10]]


@pytest.mark.parametrize("mode", DataLoaderMode)
def test_shuffling_permutes_anew_each_epoch_whatever_the_workers(mode):
    generator = torch.Generator().manual_seed(5)
    permutations = [torch.randperm(10, generator=generator) for _ in range(3)]
    expected = [[p[:4].tolist(), p[4:8].tolist()] for p in permutations]
    for workers in (0, 1, 2):
        loader = DataLoader(options_for(2, seed=5), Rows(10), 2, True, workers, mode=mode)
        torch.rand(workers + 1)  # the main program's draws don't matter
        assert [epoch(loader) for _ in range(3)] == expected


def test_shuffling_without_random_seed_follows_manual_seed():
    orders = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        orders.append(epoch(DataLoader(options_for(), Rows(6), 2, True)))
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("mode", [SYNC, ASYNC])
def test_an_epoch_that_was_left_is_over(mode):
    loader = DataLoader(options_for(seed=3), Rows(8), 2, True, 1, mode=mode)
    generator = torch.Generator().manual_seed(3)
    permutations = [torch.randperm(8, generator=generator).tolist() for _ in range(3)]
    iterator = iter(loader)
    assert next(iterator).tolist() == permutations[0][:2]
    assert [row for batch in epoch(loader) for row in batch] == permutations[1]
    assert [row for batch in epoch(loader) for row in batch] == permutations[2]


@pytest.mark.parametrize("mode", DataLoaderMode)
def test_a_sampler_gives_the_order(mode):
    loader = DataLoader(options_for(2), Rows(6), 1, mode=mode, sampler=[5, 3, 1, 0, 2])
    assert epoch(loader) == [[5, 3], [1, 0]]


def test_a_sampler_is_asked_when_the_epoch_begins():
    class Sampler:
        start = 0

        def __len__(self):
            return 2

        def __iter__(self):
            return iter([self.start, self.start + 1])

    sampler = Sampler()
    loader = DataLoader(options_for(), Rows(9), 1, mode=ASYNC, sampler=sampler)
    for start in (4, 7):
        sampler.start = start
        assert epoch(loader) == [[start], [start + 1]]


def test_a_batch_sampler_gives_combined_batches():
    loader = DataLoader(options_for(3), Rows(6), batch_sampler=[[5, 3, 1], [0, 2, 4]], mode=ASYNC)
    assert epoch(loader) == [[5, 3, 1], [0, 2, 4]]


def test_batch_size_none_leaves_batches_to_the_data_set():
    loader = DataLoader(options_for(2), TensorDataset(torch.arange(6).view(3, 2)), batch_size=None)
    assert loader.combinedBatchSize is None
    assert [batch[0].tolist() for batch in loader] == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize("mode", DataLoaderMode)
@pytest.mark.parametrize(("drop_last", "last"), [(True, []), (False, [[8]])])
def test_iterable_data(mode, drop_last, last):
    if mode == ASYNC and not drop_last:
        last = [[8]]
    loader = DataLoader(options_for(2), Stream(9), 2, drop_last=drop_last, mode=mode)
    assert epoch(loader) == [[0, 1, 2, 3], [4, 5, 6, 7], *last]


def test_iterable_data_with_several_workers_warns(caplog, monkeypatch):
    monkeypatch.setattr(logger, "propagate", True)
    DataLoader(options_for(), Stream(4), 2, num_workers=2)
    assert "worker_init_fn" in caplog.text


def test_a_short_last_batch_is_announced(caplog, monkeypatch):
    monkeypatch.setattr(logger, "propagate", True)
    DataLoader(options_for(2), Rows(7), 2, drop_last=False)
    assert "7 rows are no multiple of 4: the last batch has 3" in caplog.text


def test_options_are_frozen_and_kept():
    options = options_for()
    loader = DataLoader(options, Rows(2))
    assert loader.options is options
    with pytest.raises(AttributeError, match="frozen"):
        options.deviceIterations(2)
