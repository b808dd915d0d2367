"""The data loader in several processes: which rows come to which."""

import pytest
import torch

from poptorch_host.dataloader import DataLoader
from poptorch_host.errors import Error
from poptorch_host.sampling import Deal

from .loading import REBATCHED, SYNC, Rows, Stream, epoch, options_for


@pytest.fixture
def launch(monkeypatch):
    def as_process(process_id, num_processes):
        monkeypatch.setenv("RANK", str(process_id))
        monkeypatch.setenv("WORLD_SIZE", str(num_processes))

    return as_process


# Several processes. DI, GA, R, batch_size, P, rows of one combined batch for each process: rows count up in the
# order device iteration, accumulation step, replica, sample.
DEALS = [
    (1, 2, 2, 1, 2, [[0, 2], [1, 3]]),
    (2, 1, 4, 2, 2, [[0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]]),
    (1, 1, 4, 1, 4, [[0], [1], [2], [3]]),
    (2, 2, 3, 1, 3, [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]),
    (1, 3, 2, 2, 1, [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]]),
]


@pytest.mark.parametrize("mode", [SYNC, REBATCHED])
@pytest.mark.parametrize(("di", "ga", "r", "mb", "processes", "expected"), DEALS)
def test_rows_are_dealt_out_to_the_processes(launch, mode, di, ga, r, mb, processes, expected):
    combined = di * ga * r * mb
    for process_id in range(processes):
        launch(process_id, processes)
        if mode == REBATCHED and combined == processes:
            continue
        loader = DataLoader(options_for(di, ga, r), Rows(2 * combined + 1), mb, mode=mode)
        assert loader.combinedBatchSize == combined // processes
        first = expected[process_id]
        assert epoch(loader) == [first, [row + combined for row in first]]
        assert len(loader) == 2


def test_processes_together_see_the_order_of_a_single_one(launch):
    alone = epoch(DataLoader(options_for(2, 2, 4, seed=9), Rows(70), 1, True))
    launch(0, 1)
    parts = []
    for process_id in range(2):
        launch(process_id, 2)
        parts.append(epoch(DataLoader(options_for(2, 2, 4, seed=9), Rows(70), 1, True)))
    for whole, *halves in zip(alone, *parts):
        left, right = (torch.tensor(half).view(4, 2) for half in halves)
        assert torch.cat([left, right], dim=1).flatten().tolist() == whole


def test_a_sampler_is_dealt_out_too(launch):
    launch(1, 2)
    assert epoch(DataLoader(options_for(1, 1, 2), Rows(4), 1, sampler=[3, 2, 1, 0])) == [[2], [0]]


# n, rows of the last batch for each of 2 processes, with DI = 1, GA = 2, R = 2, batch_size 2 and drop_last=False
@pytest.mark.parametrize(("n", "last"), [(12, [[8, 10], [9, 11]]), (11, [[8], [9, 10]]), (9, [[], [8]]), (8, [[], []])])
def test_a_short_last_batch_is_dealt_out(launch, n, last):
    for process_id in range(2):
        launch(process_id, 2)
        loader = DataLoader(options_for(1, 2, 2), Rows(n), 2, drop_last=False)
        first = [[0, 1, 4, 5], [2, 3, 6, 7]][process_id]
        expected = [first] + ([last[process_id]] if last[process_id] else [])
        assert epoch(loader) == expected
        assert len(loader) == len(expected)


def test_a_local_data_set_is_left_whole(launch):
    launch(1, 2)
    loader = DataLoader(options_for(1, 2, 2), Rows(6), 1, auto_distributed_partitioning=False)
    assert epoch(loader) == [[0, 1], [2, 3], [4, 5]]


def test_iterable_data_is_not_divided(launch):
    launch(1, 2)
    options = options_for(1, 1, 2)
    with pytest.raises(AssertionError, match="IterableDataset"):
        DataLoader(options, Stream(4), 2)
    loader = DataLoader(options, Stream(4), 2, auto_distributed_partitioning=False)
    assert epoch(loader) == [[0, 1], [2, 3]]


def test_replicas_that_cannot_be_dealt_out(launch):
    launch(0, 2)
    with pytest.raises(Error, match="multiple of 2"):
        DataLoader(options_for(replicas=3), Rows(6))


def test_processes_draw_different_random_numbers_in_workers(launch):
    class Noise(Rows):
        def __getitem__(self, index):
            return torch.rand(())

    drawn = []
    for process_id in range(2):
        launch(process_id, 2)
        loader = DataLoader(options_for(replicas=2, seed=1), Noise(4), 2, num_workers=1)
        drawn.append(epoch(loader)[0])
    assert drawn[0] != drawn[1]


# PopTorch's contiguous shares, for 11 rows in combined batches of 2 on 2 processes
@pytest.mark.parametrize(
    ("process_id", "drop_last", "expected"),
    [
        (0, True, [[0, 1], [2, 3]]),
        (1, True, [[4, 5], [6, 7]]),
        (0, False, [[0, 1], [2, 3], [4, 5]]),
        (1, False, [[6, 7], [8, 9], [10]]),
    ],
)
@pytest.mark.parametrize("mode", [SYNC, REBATCHED])
def test_contiguous_shares_when_the_program_names_the_processes(process_id, drop_last, expected, mode):
    options = options_for(2)
    options.Distributed.configureProcessId(process_id, 2)
    loader = DataLoader(options, Rows(11), 1, drop_last=drop_last, mode=mode)
    assert epoch(loader) == expected
    assert len(loader) == len(expected)


def test_shuffled_shares_alternate_so_that_leftovers_are_used():
    generator = torch.Generator().manual_seed(4)
    permutations = [torch.randperm(11, generator=generator).tolist() for _ in range(3)]
    for process_id in range(2):
        options = options_for(2, seed=4)
        options.Distributed.configureProcessId(process_id, 2)
        loader = DataLoader(options, Rows(11), 1, True)
        for order, shift in zip(permutations, (3, 0, 3)):  # 11 % 4 rows are left over
            start = 4 * process_id + shift
            assert epoch(loader) == [order[start : start + 2], order[start + 2 : start + 4]]


def test_deal_covers_each_row_once():
    for groups, replicas, processes, n in [(6, 4, 2, 48), (2, 2, 2, 7), (3, 8, 8, 5), (1, 6, 3, 6)]:
        parts = [Deal(groups, replicas, p, processes).rows(range(n)) for p in range(processes)]
        assert sorted(row for part in parts for row in part) == list(range(n))
