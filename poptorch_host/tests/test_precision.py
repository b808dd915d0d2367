from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import poptorch_host as poptorch
from poptorch_host.errors import Error
from poptorch_host.precision import numerics, round_to_half


@pytest.mark.parametrize("value", [1.0003, -1.0003, 3e-6, -1.23e-7, 1e-9, 65503.0, -0.3333, 6.1e-5, 6.1035156e-5])
def test_stochastic_rounding_is_unbiased_and_picks_a_neighbour(value):
    torch.manual_seed(0)
    x = torch.full((100_000,), value)
    rounded = round_to_half(x, stochastic=True).double()
    nearest = x[0].half()
    away = torch.inf if nearest.float() < x[0] else -torch.inf
    other = nearest if nearest.float() == x[0] else nearest.nextafter(torch.tensor(away).half())
    assert set(rounded.tolist()) == {nearest.double().item(), other.double().item()}
    # A coin has a standard deviation of at most 1/2: five of them for 1e5 throws.
    gap = abs(nearest.double().item() - other.double().item())
    assert abs(rounded.mean().item() - x[0].double().item()) <= 5 * 0.5 * gap / math.sqrt(100_000)


def test_stochastic_rounding_keeps_every_half_value():
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.float16)
    rounded = round_to_half(every.float(), stochastic=True)
    same = (rounded.view(torch.int16) == every.view(torch.int16)) | (rounded.isnan() & every.isnan())
    assert same.all()


def test_stochastic_rounding_overflows_where_rounding_to_nearest_does():
    x = torch.tensor([65519.0, 65521.0, 1e9, -1e9, math.inf, -math.inf])
    assert torch.equal(round_to_half(x, stochastic=True), x.half())


def test_rounding_takes_a_generator():
    x = torch.rand(1000)
    first = round_to_half(x, True, torch.Generator().manual_seed(3))
    assert torch.equal(first, round_to_half(x, True, torch.Generator().manual_seed(3)))
    assert not torch.equal(first, round_to_half(x, True, torch.Generator().manual_seed(4)))


def test_numerics_names(monkeypatch):
    monkeypatch.delenv("POPTORCH_HOST_NUMERICS", raising=False)
    assert numerics() == "fast"
    monkeypatch.setenv("POPTORCH_HOST_NUMERICS", "exactly")
    with pytest.raises(Error, match="is 'exactly': use fast or exact"):
        numerics()


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 4))
        self.seen: list[torch.dtype] = []

    def forward(self, x, y):
        hidden = self.net(x)
        self.seen.append(hidden.dtype)
        return F.cross_entropy(hidden, y), hidden


def data():
    torch.manual_seed(1)
    x = torch.randn(64, 8)
    return x, (x[:, :4] + 0.1 * torch.randn(64, 4)).argmax(1)


def train(half, steps=30, **options):
    x, y = data()
    model = Classifier()
    settings = poptorch.Options()
    settings.Precision.enableStochasticRounding(options.pop("stochastic", False))
    if half:
        model.half()
        x = x.half()
    executor = poptorch.trainingModel(model, settings, poptorch.optim.AdamW(model.parameters(), lr=3e-3, **options))
    losses = [executor(x, y)[0].item() for _ in range(steps)]
    return losses, model, executor


def test_fast_half_follows_float32():
    full, model32, _ = train(half=False)
    half, model16, executor = train(half=True)
    assert abs(half[-1] - full[-1]) < 0.02 * full[0]
    weight = executor._program.module.net[0].weight
    assert weight.dtype == torch.bfloat16
    assert model16.net[0].weight.dtype == torch.float16
    torch.testing.assert_close(
        model16.net[0].weight.float().detach(), model32.net[0].weight.detach(), rtol=0, atol=0.01
    )


def test_fast_half_has_float32_masters_that_collect_small_updates():
    model = nn.Linear(1, 1, bias=False).half()
    nn.init.constant_(model.weight, 1.0)

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = model

        def forward(self, x):
            return poptorch.identity_loss(self.layer(x), "sum")

    executor = poptorch.trainingModel(Loss(), None, torch.optim.SGD(model.parameters(), lr=2.0**-14))
    for _ in range(64):  # each update is a sixteenth of float16's spacing at 1, none survives rounding alone
        executor(torch.ones(1, 1, dtype=torch.float16))
    assert model.weight.item() == 1 - 64 * 2.0**-14


@pytest.mark.parametrize("stochastic", [False, True])
def test_exact_half_weights_move_only_with_stochastic_rounding(monkeypatch, stochastic):
    monkeypatch.setenv("POPTORCH_HOST_NUMERICS", "exact")

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4096))

        def forward(self, x):
            return poptorch.identity_loss(self.weight * x, "sum")

    model = Loss().half()
    options = poptorch.Options().randomSeed(0)
    options.Precision.enableStochasticRounding(stochastic)
    executor = poptorch.trainingModel(model, options, torch.optim.SGD(model.parameters(), lr=2.0**-14))
    for _ in range(8):
        executor(torch.ones(1, dtype=torch.float16))
    moved = 1 - model.weight.detach().float().mean().item()
    assert model.weight.dtype == torch.float16
    if stochastic:
        assert moved == pytest.approx(8 * 2.0**-14, rel=0.1)
    else:
        assert moved == 0


def test_exact_half_computes_in_float16(monkeypatch):
    monkeypatch.setenv("POPTORCH_HOST_NUMERICS", "exact")
    losses, _, executor = train(half=True, stochastic=True)
    assert executor._program.module.seen[0] == torch.float16
    assert executor._program.module.net[0].weight.dtype == torch.float16
    assert losses[-1] < 0.5 * losses[0]


def test_half_inputs_of_a_float32_model_run_under_autocast():
    x, y = data()
    model = Classifier()
    executor = poptorch.trainingModel(model, None, torch.optim.SGD(model.parameters(), lr=0.1))
    loss, hidden = executor(x.half(), y)
    assert executor._program.module.seen[-1] == torch.bfloat16
    assert executor._program.module.net[0].weight.dtype == torch.float32
    assert hidden.dtype == torch.float16
    assert loss.dtype == torch.float32


def test_float16_named_inside_forward_means_the_stand_in():
    class Casting(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x):
            product = self.layer(x.float().half()) @ torch.eye(2, dtype=torch.float16)
            return product + self.layer(x.float().to(torch.float16)) + self.layer(x.float().type(torch.float16))

    model = Casting().half()
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float16)
    out = poptorch.inferenceModel(model)(x)
    expected = 3 * F.linear(x.float(), model.layer.weight.float(), model.layer.bias.float())
    torch.testing.assert_close(out.float(), expected.detach(), rtol=1e-2, atol=2e-2)


def test_batch_normalisation_keeps_float32_statistics_in_fast_half():
    model = nn.Sequential(nn.BatchNorm1d(2)).half()

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = model

        def forward(self, x):
            return poptorch.identity_loss(self.norm(x), "mean")

    executor = poptorch.trainingModel(Loss(), None, torch.optim.SGD(model.parameters(), lr=0.0))
    x = torch.tensor([[1.0, -3.0], [3.0, 5.0]], dtype=torch.float16)
    for _ in range(100):
        executor(x)
    assert model[0].running_mean.dtype == torch.float16
    torch.testing.assert_close(model[0].running_mean, torch.tensor([2.0, 1.0]).half(), rtol=1e-3, atol=0)
    assert model[0].num_batches_tracked == 100
