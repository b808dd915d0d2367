"""What Mixup and CutMix draw: distributions, timm's boxes, shares of processes, pairs."""

import numpy as np
import pytest
import torch
from timm.data.mixup import cutmix_bbox_and_lam

from dataset.mixing import COLUMNS, Mixing, draw_rows, needs_partners, partners

SIZE = (12, 20)


def rows(mixing, *, update=0, micro_batches=50, micro_batch_size=4, seed=1, shard=(0, 1)):
    return draw_rows(mixing, seed, update, micro_batches, micro_batch_size, SIZE, shard)


def by_micro_batch(mixing, micro_batch_size=4, **changes):
    drawn = rows(mixing, micro_batch_size=micro_batch_size, **changes)
    return drawn.reshape(-1, micro_batch_size, COLUMNS)


@pytest.mark.parametrize("alpha", [0.5, 0.8, 4.0])
def test_mixups_share_is_of_the_beta_distribution(alpha):
    drawn = rows(Mixing(mixup_alpha=alpha), micro_batches=20000, micro_batch_size=1).double()
    assert torch.equal(drawn[:, 0], drawn[:, 1])  # in the pixels as in the label
    assert not drawn[:, 2:].any()
    assert float(drawn[:, 0].mean()) == pytest.approx(0.5, abs=0.01)
    assert float(drawn[:, 0].var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03)


@pytest.mark.parametrize("seed", range(40))
def test_cutmixs_boxes_and_shares_are_timms(seed):
    found = Mixing(cutmix_alpha=1.0).draw(np.random.RandomState(seed), SIZE)
    np.random.seed(seed)
    np.random.rand()  # whether to mix at all
    share = np.random.beta(1.0, 1.0)
    (top, bottom, left, right), share = cutmix_bbox_and_lam((4, 3, *SIZE), share, correct_lam=True)
    assert found == [1.0, pytest.approx(share), top, bottom, left, right]


def test_boxes_of_given_sides():
    drawn = rows(Mixing(cutmix_minmax=(0.25, 0.5)), micro_batches=500)
    _, label, top, bottom, left, right = drawn.unbind(1)
    tall, wide = bottom - top, right - left
    assert (tall.min(), tall.max()) == (3, 5)  # the largest side itself has no width of chance
    assert (wide.min(), wide.max()) == (5, 9)
    assert torch.allclose(label, 1 - tall * wide / (12 * 20))
    assert top.min() == 0
    assert bottom.max() == 12
    assert right.max() == 20


def test_probabilities():
    both = rows(Mixing(mixup_alpha=0.8, cutmix_alpha=1.0, probability=0.7, switch_probability=0.25), micro_batches=8000)
    both = both[::4]
    untouched = (both == torch.tensor([1.0, 1, 0, 0, 0, 0])).all(1)
    cut = ~untouched & (both[:, 0] == 1)
    # An area below 1/144, which is uniform, makes a box without a row.
    assert float((both[cut, 1] == 1).float().mean()) == pytest.approx(1 / 144, abs=0.008)
    assert float(untouched.float().mean()) == pytest.approx(0.3, abs=0.02)
    assert float(cut.float().mean()) == pytest.approx(0.7 * 0.25, abs=0.02)
    assert not rows(Mixing(mixup_alpha=0.8, cutmix_alpha=1.0, switch_probability=0.0))[:, 2:].any()
    assert (rows(Mixing(mixup_alpha=0.8, cutmix_alpha=1.0, switch_probability=1.0))[:, 0] == 1).all()


@pytest.mark.parametrize(
    ("mixing", "is_on"),
    [
        (Mixing(), False),
        (Mixing(mixup_alpha=1.0), True),
        (Mixing(cutmix_alpha=1.0), True),
        (Mixing(cutmix_minmax=(0.1, 0.2)), True),
        (Mixing(mixup_alpha=1.0, probability=0.0), False),
    ],
)
def test_whether_anything_is_mixed(mixing, is_on):
    assert mixing.is_on == is_on


def test_modes_draw_for_a_batch_a_pair_or_a_sample():
    batch = by_micro_batch(Mixing(mixup_alpha=1.0))[..., 0]
    assert (batch == batch[:, :1]).all()
    assert len(batch[:, 0].unique()) == 50
    pair = by_micro_batch(Mixing(mixup_alpha=1.0, mode="pair"))[..., 0]
    assert torch.equal(pair, pair.flip(1))  # partners are mirrored
    assert len(pair.unique()) == 100
    sample = by_micro_batch(Mixing(mixup_alpha=1.0, mode="elem"))[..., 0]
    assert len(sample.unique()) == 200


def test_pairs_of_odd_micro_batches_are_neighbours():
    assert needs_partners(3)
    assert not needs_partners(4)
    pair = rows(Mixing(mixup_alpha=1.0, mode="pair"), micro_batch_size=3)[:, 0]
    assert torch.equal(partners(pair), pair)
    assert len(pair.unique()) == 75
    assert partners(torch.arange(6)).tolist() == [1, 0, 3, 2, 5, 4]
    assert partners(torch.arange(8).reshape(4, 2)).tolist() == [[2, 3], [0, 1], [6, 7], [4, 5]]


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_rows_depend_on_seed_and_update_alone_and_processes_have_shares_of_them(mode):
    mixing = Mixing(mixup_alpha=0.8, cutmix_alpha=1.0, mode=mode)
    whole = rows(mixing, update=7)
    assert whole.shape == (200, COLUMNS)
    assert whole.dtype == torch.float32
    assert torch.equal(rows(mixing, update=7), whole)
    assert not torch.equal(rows(mixing, update=8), whole)
    assert not torch.equal(rows(mixing, update=7, seed=2), whole)
    assert torch.equal(torch.cat([rows(mixing, update=7, shard=(index, 5)) for index in range(5)]), whole)
