"""Order of samples over a run, its shards, and evaluation of every sample once."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from run.errors import UserError
from run.sampling import EvaluationStream, TrainingStream, permutation

# Computed once; also what NumPy 1.24 gives.
FIRST, SECOND = [0, 1, 4, 2, 6, 5, 7, 3], [7, 3, 4, 2, 5, 6, 0, 1]


class Samples:
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def sample(self, epoch, index):
        assert 0 <= index < self.count
        return (epoch, index), index % 3


def seen(stream):
    return [stream[position][0] for position in range(len(stream))]


def training(count=23, **settings):
    return TrainingStream(Samples(count), **{"seed": 5, "updates": 9, "global_batch": 6, **settings})


def test_every_epoch_is_a_permutation_whose_last_partial_batch_is_dropped():
    stream = training()
    assert stream.updates_per_epoch == 3
    pairs = seen(stream)
    assert len(pairs) == len(stream) == 9 * 6
    for epoch in range(3):
        rows = pairs[epoch * 18 : (epoch + 1) * 18]
        assert {pair[0] for pair in rows} == {epoch}
        assert len({pair[1] for pair in rows}) == 18
        assert [pair[1] for pair in rows] == permutation(23, 5, epoch)[:18].tolist()


def test_permutations_depend_on_seed_and_epoch_alone():
    torch.manual_seed(1)
    np.random.seed(1)
    orders = [tuple(permutation(50, seed, epoch)) for seed in (0, 1, 2**63) for epoch in range(4)]
    torch.manual_seed(2)
    np.random.seed(2)
    assert orders == [tuple(permutation(50, seed, epoch)) for seed in (0, 1, 2**63) for epoch in range(4)]
    assert len(set(orders)) == len(orders)
    assert all(sorted(order) == list(range(50)) for order in orders)


def test_permutations_stay_the_same_with_every_version():
    assert permutation(8, 42, 0).tolist() == FIRST
    assert permutation(8, 42, 1).tolist() == SECOND


def test_places_of_a_sample_are_even():
    places = np.zeros((5, 5), dtype=int)
    for epoch in range(2000):
        places[np.arange(5), permutation(5, 0, epoch)] += 1
    assert abs(places - 400).max() < 5 * np.sqrt(400)  # 5 standard deviations


def test_shards_of_an_update_are_its_rows_in_order():
    whole = seen(training())
    for count in (2, 3, 6):
        shards = [seen(training(shard=(index, count))) for index in range(count)]
        rows = 6 // count
        for update in range(9):
            together = [row for shard in shards for row in shard[update * rows : (update + 1) * rows]]
            assert together == whole[update * 6 : (update + 1) * 6]


@pytest.mark.parametrize("start", [0, 1, 3, 8, 9])
def test_a_stream_that_starts_later_goes_on_with_the_same_samples(start):
    assert seen(training(start_update=start)) == seen(training())[start * 6 :]
    assert seen(training(start_update=start, shard=(1, 2))) == seen(training(shard=(1, 2)))[start * 3 :]


def test_a_longer_run_begins_like_a_shorter_one():
    assert seen(training(updates=4)) == seen(training(updates=9))[: 4 * 6]


def test_ids_of_an_update_are_those_of_all_processes():
    stream = training(start_update=2, shard=(1, 2))
    whole = seen(training())
    for update in (8, 0, 4):
        assert stream.sample_ids(update) == [index for _, index in whole[update * 6 : (update + 1) * 6]]


def test_random_access_and_copies_for_workers_agree():
    stream = training()
    expected = seen(stream)
    assert [stream[position][0] for position in (53, 0, 20, 19, 35)] == [expected[p] for p in (53, 0, 20, 19, 35)]
    copy = pickle.loads(pickle.dumps(stream))
    assert seen(copy) == expected
    loader = torch.utils.data.DataLoader(training(), batch_size=6, num_workers=2, collate_fn=list)
    assert [pair for batch in loader for pair, _ in batch] == expected
    assert [pair for pair, _ in training()] == expected  # a plain loop ends by itself


def test_one_batch_at_least_and_shards_that_come_out_even():
    with pytest.raises(UserError, match="has 5 samples, fewer than one global batch of 6"):
        training(count=5)
    with pytest.raises(UserError, match="6 can't be split over 4 processes"):
        training(shard=(0, 4))
    assert training(count=6, updates=2).updates_per_epoch == 1


@pytest.mark.parametrize("count", [1, 5, 12, 23, 24])
@pytest.mark.parametrize("multiple", [1, 4])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_evaluation_counts_every_sample_once_in_full_batches(count, multiple, processes):
    shards = [EvaluationStream(Samples(count), multiple, (index, processes)) for index in range(processes)]
    assert len({len(shard) for shard in shards}) == 1
    assert len(shards[0]) % multiple == 0
    assert (len(shards[0]) - multiple) * processes < count
    rows = [shard[position] for shard in shards for position in range(len(shard))]
    counted = [(index, label) for (epoch, index), label in rows if label >= 0]
    assert counted == [(index, index % 3) for index in range(count)]
    assert all(label == -1 for _, label in rows[count:])
    assert all(epoch == 0 for (epoch, _), _ in rows)


def test_labels_of_padding_can_be_batched_with_the_others():
    class Tensors(Samples):
        def sample(self, epoch, index):
            return torch.zeros(2), torch.tensor(index)

    (batch,) = torch.utils.data.DataLoader(EvaluationStream(Tensors(3), 4), batch_size=4)
    assert batch[1].tolist() == [0, 1, 2, -1]
    assert batch[1].dtype == torch.int64


def test_an_empty_evaluation_set_is_an_error():
    with pytest.raises(UserError, match="empty"):
        EvaluationStream(Samples(0), 4)
