"""Random generators go on where they were."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from run.randomness import restore_rng_state, rng_state, seed_everything
from run.tree import pack, unpack


@pytest.fixture(autouse=True)
def _undisturbed():
    before = rng_state()
    yield
    restore_rng_state(before)


def draw():
    """Draws of every kind; the normal ones keep a second number for the next call."""
    return [
        [random.random(), random.gauss(0, 1)],
        [*np.random.rand(2).tolist(), float(np.random.normal())],
        torch.rand(3).tolist(),
    ]


def through_a_checkpoint(state):
    value, tensors = pack(state)
    return unpack(json.loads(json.dumps(value)), load(save(tensors)))


def test_draws_go_on_after_a_checkpoint():
    seed_everything(3)
    draw()
    state = through_a_checkpoint(rng_state())
    expected = [draw() for _ in range(300)]
    seed_everything(99)
    draw()
    restore_rng_state(state)
    assert [draw() for _ in range(300)] == expected


def test_a_seed_sets_every_generator():
    seed_everything(7)
    one = draw()
    seed_everything(7)
    assert draw() == one
    seed_everything(8)
    assert all(mine != theirs for mine, theirs in zip(draw(), one))
    seed_everything(2**40)
