import pytest
import torch
from torch import nn

from device import Device
from options import parse_options
from recipe import Batch, batch_of, derive
from run.errors import UsageError

CPU = Device(torch.device("cpu"), "eager", "test")
IMAGENET = 1_281_167


def options(*flags):
    return parse_options(["--name", "x", "--dataset", "imagenet1K", *map(str, flags)])


@pytest.mark.parametrize(
    ("cards", "card", "accumulation", "total", "passes"),
    [(1, 512, 16, 512, 7.99), (8, 64, 2, 512, 7.99), (16, 64, 2, 1024, 15.99)],
)
def test_the_documented_runs(cards, card, accumulation, total, passes):
    given = options("--train_batch_size", card, "--gradient_accumulation_steps", accumulation, "--num_steps", 20000)
    recipe = derive(given, IMAGENET, nn.Linear(2, 3), cards, CPU)
    assert recipe.batch == Batch(32, accumulation, cards)
    assert (recipe.batch.card, recipe.batch.total) == (card, total)
    assert recipe.epochs == pytest.approx(passes, abs=0.01)
    assert recipe.parameters == 9
    assert f"{total:,} = micro-batch 32 × accumulation {accumulation} × cards {cards}" in recipe.describe(given)


@pytest.mark.parametrize(("cards", "accumulation"), [(1, 16), (2, 8), (8, 2), (16, 1)])
def test_a_fixed_global_batch_keeps_the_micro_batch_on_any_number_of_cards(cards, accumulation):
    given = options("--train_batch_size", 64, "--gradient_accumulation_steps", 2, "--global_batch_size", 512)
    assert batch_of(given, cards) == Batch(32, accumulation, cards)


def test_a_fixed_global_batch_that_does_not_divide():
    with pytest.raises(UsageError, match="512 is no multiple of 3 cards × micro-batch 32"):
        batch_of(options("--train_batch_size", 32, "--global_batch_size", 512), 3)


def test_too_few_samples():
    with pytest.raises(UsageError, match="100 samples and one optimizer step takes 512"):
        derive(options(), 100, nn.Linear(1, 1), 1, CPU)
