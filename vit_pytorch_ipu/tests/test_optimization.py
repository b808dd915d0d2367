import math

import pytest
import torch

from ipu.training import set_learning_rate
from models import create_model
from optimization import create_optimizer, learning_rate, parameter_groups
from options import FinetuneOptions
from poptorch_host.backend import poptorch

SIZES = {"width": 16, "depth": 1, "heads": 2, "mlp_width": 32}


def options(**changes):
    return FinetuneOptions(config="test", **changes)


@pytest.fixture
def model():
    return create_model("vit_tiny_patch16_224", image_size=32, num_classes=3, **SIZES)


def test_decay_is_on_matrices_only_and_every_parameter_is_in_one_group(model):
    decayed, plain = parameter_groups(model, options(weight_decay=0.3))
    assert decayed["weight_decay"] == 0.3
    assert plain["weight_decay"] == 0.0
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    listed = [names[id(parameter)] for group in (decayed, plain) for parameter in group["params"]]
    assert sorted(listed) == sorted(names.values())
    in_plain = {names[id(parameter)] for parameter in plain["params"]}
    assert {name for name in in_plain if model.get_parameter(name).ndim > 1} == {
        "embeddings.class_token",
        "embeddings.positions",
    }


@pytest.mark.parametrize(
    ("step", "expected"),
    # CIFAR-10's recipe: peak 0.03, 500 steps of warm-up, 2,000 in all; the last step's rate is still above zero.
    [
        (0, 0.03 / 500),
        (249, 0.015),
        (499, 0.03),
        (500, 0.03),
        (1250, 0.015),
        (1999, 0.03 * 0.5 * (1 + math.cos(math.pi * 1499 / 1500))),
    ],
)
def test_cosine_after_warm_up(step, expected):
    given = options(learning_rate=0.03, warmup_steps=500, lr_schedule="cosine")
    assert learning_rate(given, step, 2000) == pytest.approx(expected, rel=1e-12)


def test_linear_and_constant():
    assert learning_rate(options(learning_rate=1.0, warmup_steps=2, lr_schedule="linear"), 7, 12) == pytest.approx(0.5)
    constant = options(learning_rate=1.0, warmup_steps=2, lr_schedule="constant")
    assert [learning_rate(constant, step, 12) for step in (0, 1, 11)] == [0.5, 1.0, 1.0]


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "LAMB"])
def test_each_optimizer_gets_its_options(model, name):
    given = options(optimizer=name, learning_rate=0.25, momentum=0.7, adam_betas=[0.8, 0.95], loss_scaling=8.0)
    optimizer = create_optimizer(model, given)
    assert isinstance(optimizer, getattr(poptorch.optim, name))
    assert optimizer.loss_scaling == 8.0
    assert optimizer.accum_type == torch.float16
    if name == "SGD":
        assert optimizer.param_groups[0]["momentum"] == 0.7
    else:
        assert tuple(optimizer.param_groups[0]["betas"]) == (0.8, 0.95)
    if name == "LAMB":
        assert [group["max_weight_norm"] for group in optimizer.param_groups] == [65535.0, 0.0]
    set_learning_rate(optimizer, 0.125)
    assert {group["lr"] for group in optimizer.param_groups} == {0.125}
