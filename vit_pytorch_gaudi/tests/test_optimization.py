import math

import pytest
import torch
from torch import nn

from device import Device
from models import create_model
from optimization import create_optimizer, learning_rate, parameter_groups, schedule
from options import parse_options

CPU = Device(torch.device("cpu"), "eager", "test")


def options(*flags):
    return parse_options(["--name", "x", "--dataset", "imagenet1K", *map(str, flags)])


DOCUMENTED = options("--learning_rate", 0.06, "--num_steps", 20000)


@pytest.mark.parametrize(
    ("position", "rate"), [(0, 0), (1, 1.2e-4), (250, 0.03), (500, 0.06), (10250, 0.03), (20000, 0), (30000, 0)]
)
def test_the_documented_recipes_table(position, rate):
    assert schedule(DOCUMENTED, position, 20000) == pytest.approx(rate, rel=1e-12, abs=1e-17)


def test_linear_decay_by_hand():
    linear = options("--learning_rate", 0.06, "--decay_type", "linear", "--warmup_steps", 500)
    assert [schedule(linear, s, 20000) for s in (500, 10250, 20000, 25000)] == pytest.approx([0.06, 0.03, 0, 0])


def test_every_step_trains_and_the_peak_is_reached():
    rates = [learning_rate(DOCUMENTED, step, 20000) for step in range(1, 20001)]
    assert rates[0] == pytest.approx(1.2e-4)
    assert rates[499] == rates[500] == max(rates) == pytest.approx(0.06)
    assert rates[10250] == pytest.approx(0.03)
    assert min(rates) == rates[-1] > 0
    expected = 0.03 * (1 + math.cos(math.pi * (20000 - 1 - 500) / 19500))
    assert rates[-1] == pytest.approx(expected, rel=1e-6)


def test_the_schedule_is_torchs_lambda_lr_with_the_published_formula():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.06)

    def factor(s, warm=500, total=20000):
        done = (s - warm) / max(1, total - warm)
        return s / max(1, warm) if s < warm else max(0.0, 0.5 * (1 + math.cos(math.pi * 2 * 0.5 * done)))

    published = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    for position in range(700):
        assert published.get_last_lr()[0] == pytest.approx(schedule(DOCUMENTED, position, 20000), rel=1e-9, abs=1e-15)
        optimizer.step()
        published.step()


@pytest.mark.parametrize("warmup", [0, 1, 3, 10])
def test_short_runs_train_in_every_step(warmup):
    short = options("--warmup_steps", warmup)
    assert all(learning_rate(short, step, 5) > 0 for step in range(1, 6))


def test_only_matrices_decay():
    model = create_model("testing", image_size=32, num_classes=10)
    decayed, plain = parameter_groups(model, options("--weight_decay", 0.1))
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert len(decayed["params"]) + len(plain["params"]) == len(names)
    assert all(names[parameter].endswith("weight") for parameter in decayed["params"])
    assert {"embeddings.positions", "embeddings.class_token"} <= {names[parameter] for parameter in plain["params"]}
    assert all(".norm" not in names[parameter] for parameter in decayed["params"])


@pytest.mark.parametrize(("name", "flags"), [("SGD", []), ("AdamW", ["--weight_decay", 0.1])])
def test_fused_and_plain_optimizers_agree(name, flags):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    ours = create_optimizer(model, options("--optimizer", name, "--learning_rate", 0.1, *flags), CPU)
    twin = nn.Linear(3, 2)
    twin.load_state_dict(model.state_dict())
    decay = 0.1 if flags else 0.0
    groups = [{"params": [twin.weight], "weight_decay": decay}, {"params": [twin.bias], "weight_decay": 0.0}]
    more = {"momentum": 0.9} if name == "SGD" else {}
    plain = getattr(torch.optim, name)(groups, lr=0.1, foreach=False, fused=False, **more)
    for _ in range(3):
        inputs = torch.randn(4, 3)
        for trained, optimizer in ((model, ours), (twin, plain)):
            optimizer.zero_grad()
            trained(inputs).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(model.weight, twin.weight, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(model.bias, twin.bias, rtol=1e-6, atol=1e-7)
    assert ours.param_groups[0]["fused"] is True
