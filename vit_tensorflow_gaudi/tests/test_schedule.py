"""Learning rates at the places where each schedule can be wrong."""

import math
from dataclasses import replace

import pytest

from options import TrainOptions
from recipe import Recipe
from schedule import make_schedule


def schedule(steps_per_epoch=10, **changes):
    return make_schedule(replace(TrainOptions(), **changes), steps_per_epoch)


def test_warmup_cosine_at_0_at_the_end_of_warm_up_and_at_the_end():
    rate = schedule(epochs=5, warmup_steps=20, initial_lr=0.06)
    assert rate(0, 0) == 0
    assert rate(5, 0) == pytest.approx(0.06 * 5 / 20)
    assert rate(19, 1) == pytest.approx(0.06 * 19 / 20)
    assert rate(20, 2) == 0.06
    assert rate(35, 3) == pytest.approx(0.06 * 0.5)
    assert rate(44, 4) == pytest.approx(0.06 * 0.5 * (1 + math.cos(math.pi * 0.8)))
    assert rate(50, 5) == pytest.approx(0, abs=1e-15)


def test_warmup_cosine_without_warm_up_and_never_past_it():
    assert schedule(epochs=5, warmup_steps=0)(0, 0) == 0.06
    never = schedule(epochs=1, warmup_steps=4000)
    assert never(9, 0) == pytest.approx(0.06 * 9 / 4000)


def test_linear_and_exp_go_from_first_to_last():
    for name in ("linear", "exp"):
        rate = schedule(lr_sched=name, epochs=5, initial_lr=1.0, final_lr=0.0001)
        assert rate(7, 0) == 1.0
        assert rate(0, 4) == pytest.approx(0.0001)
    assert schedule(lr_sched="linear", epochs=5, initial_lr=1.0, final_lr=0.2)(0, 1) == pytest.approx(0.8)
    assert schedule(lr_sched="linear", epochs=5, initial_lr=0.0, final_lr=0.2)(0, 1) == pytest.approx(0.05)
    assert schedule(lr_sched="exp", epochs=5, initial_lr=0.0, final_lr=0.2)(0, 1) == 0
    assert schedule(lr_sched="exp", epochs=5, initial_lr=1.0, final_lr=0.0001)(0, 1) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("epoch", "drops"), [(0, 0), (29, 0), (30, 1), (59, 1), (60, 2), (79, 2), (80, 3), (109, 3), (110, 4), (140, 5)]
)
def test_steps(epoch, drops):
    assert schedule(lr_sched="steps", epochs=200)(0, epoch) == pytest.approx(0.06 * 0.1**drops)


@pytest.mark.parametrize("name", ["linear", "exp", "steps", "constant"])
def test_a_run_of_one_epoch_keeps_its_rate(name):
    assert schedule(lr_sched=name, epochs=1)(3, 0) == 0.06


def test_an_epochs_last_update_takes_what_is_left():
    recipe = Recipe(replace(TrainOptions(), steps_per_epoch=20, grad_accum_steps=8, epochs=2), 10_000, 1, 1)
    assert (recipe.updates_per_epoch, recipe.updates) == (3, 6)
    assert [recipe.place(update) for update in range(6)] == [
        (0, 0, 8),
        (0, 8, 8),
        (0, 16, 4),
        (1, 20, 8),
        (1, 28, 8),
        (1, 36, 4),
    ]


@pytest.mark.parametrize(
    ("batch", "workers", "updates_per_epoch", "images"),
    [(32, 1, 5005, "256 = 32 × 1"), (256, 8, 626, "2,048 = 32 × 8")],
)
def test_the_documents_recipes(batch, workers, updates_per_epoch, images):
    recipe = Recipe(replace(TrainOptions(), batch_size=batch), 1_281_167, workers, 86_859_496)
    assert recipe.steps_per_epoch == 1_281_167 // batch
    assert recipe.updates_per_epoch == updates_per_epoch
    assert f"{images} workers × 8 micro-steps" in str(recipe)
    assert "500 updates of warm-up" in str(recipe)
