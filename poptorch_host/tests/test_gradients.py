from __future__ import annotations

import pytest
import torch
from torch import nn

import poptorch_host as poptorch
from poptorch_host import MeanReductionStrategy, ReductionType
from poptorch_host.gradients import Accumulation

DI, GA, R, MB = 2, 3, 2, 4
LR = 0.1


class Regression(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))

    def forward(self, x, y):
        return nn.functional.mse_loss(self.net(x), y)


def options(reduction, strategy, iterations=DI):
    result = poptorch.Options().deviceIterations(iterations).replicationFactor(R)
    training = result.Training.gradientAccumulation(GA).accumulationAndReplicationReductionType(reduction)
    training.setMeanAccumulationAndReplicationReductionStrategy(strategy)
    return result


def big_batch_weights(x, y, weight_of_gradient):
    """SGD on whole batches of GA·R·MB rows, the gradient of the mean times `weight_of_gradient`."""
    model = Regression()
    for rows in zip(x.split(GA * R * MB), y.split(GA * R * MB)):
        model.zero_grad()
        model(*rows).backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= LR * weight_of_gradient * p.grad
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("loss_scaling", [1.0, 256.0])
@pytest.mark.parametrize(
    ("reduction", "strategy", "weight"),
    [
        (ReductionType.Mean, MeanReductionStrategy.Post, 1),
        (ReductionType.Mean, MeanReductionStrategy.Running, 1),
        (ReductionType.Sum, MeanReductionStrategy.Post, GA * R),
        (ReductionType.Sum, MeanReductionStrategy.Running, GA * R),  # a strategy of the mean says nothing about sums
    ],
)
@pytest.mark.parametrize("numerics", ["fast", "exact"])
def test_a_call_equals_one_big_batch_per_device_iteration(
    monkeypatch, numerics, reduction, strategy, weight, loss_scaling
):
    monkeypatch.setenv("POPTORCH_HOST_NUMERICS", numerics)
    torch.manual_seed(0)
    x, y = torch.randn(DI * GA * R * MB, 3), torch.randn(DI * GA * R * MB, 1)
    model = Regression()
    optimizer = poptorch.optim.SGD(model.parameters(), lr=LR, loss_scaling=loss_scaling)
    poptorch.trainingModel(model, options(reduction, strategy), optimizer)(x, y)
    trained = torch.cat([p.detach().flatten() for p in model.parameters()])
    torch.testing.assert_close(trained, big_batch_weights(x, y, weight), rtol=1e-5, atol=1e-6)


def accumulate(gradients, *, dtype, running, exact=True, replicas=1, weight_dtype=torch.float16):
    weight = nn.Parameter(torch.zeros(1, dtype=weight_dtype))
    steps = len(gradients) // replicas
    accumulation = Accumulation(
        {"w": weight},
        dtype=dtype,
        accumulation=steps,
        replicas=replicas,
        total_replicas=replicas,
        running=running,
        exact=exact,
        stochastic=False,
        group=None,
    )
    for index, gradient in enumerate(gradients):
        accumulation.begin(index % replicas)
        (weight * torch.tensor([gradient], dtype=weight_dtype)).sum().backward()
    result = accumulation.reduce()["w"]
    accumulation.close()
    return result


def test_running_mean_stays_in_range_where_the_sum_overflows_half():
    gradients = [40000.0] * 4
    assert accumulate(gradients, dtype=torch.float16, running=False).isinf()
    mean = accumulate(gradients, dtype=torch.float16, running=True)
    assert mean.dtype == torch.float16
    assert mean.item() == 40000


def test_running_mean_in_half_follows_the_recurrence():
    gradients = [1.0, 3.0009765625, 0.3330078125, 7.0]
    s = torch.zeros(1, dtype=torch.float16)
    for f, g in enumerate(gradients):
        s = (s.float() * (f / (f + 1)) + torch.tensor([g]) / (f + 1)).half()
    result = accumulate(gradients, dtype=torch.float16, running=True)
    assert torch.equal(result, s)
    single = torch.tensor(gradients).half().float().mean()
    assert result.item() != single.item()  # rounding after each step leaves a trace


def test_replicas_accumulate_separately_and_are_averaged_under_running():
    gradients = [1.0, 100.0, 3.0, 300.0]  # replica 0: 1, 3; replica 1: 100, 300
    result = accumulate(gradients, dtype=torch.float32, running=True, replicas=2)
    assert result.item() == (2.0 + 200.0) / 2
    assert accumulate(gradients, dtype=torch.float32, running=False, replicas=2).item() == 404.0


def test_one_micro_batch_keeps_the_weights_type():
    assert accumulate([1.5], dtype=torch.float32, running=False).dtype == torch.float16
    assert accumulate([1.5, 1.5], dtype=torch.float32, running=False).dtype == torch.float32


def test_fast_accumulates_bfloat16_gradients_in_float32():
    gradients = [256.0] + [1.0] * 9  # bfloat16 would lose every 1
    result = accumulate(gradients, dtype=torch.float16, running=False, exact=False, weight_dtype=torch.bfloat16)
    assert result.dtype == torch.float32
    assert result.item() == 265.0


def test_a_half_accumulator_switches_to_running():
    model = Regression()
    mine = options(ReductionType.Mean, MeanReductionStrategy.Post)
    optimizer = poptorch.optim.SGD(model.parameters(), lr=LR, accum_type=torch.float16)
    executor = poptorch.trainingModel(model, mine, optimizer)
    name = "meanAccumulationAndReplicationReductionStrategy"
    assert getattr(executor.options.Training, name) == MeanReductionStrategy.Running
    assert getattr(mine.Training, name) == MeanReductionStrategy.Post


def test_the_combined_variant_needs_no_running_mean():
    model = Regression()
    optimizer = poptorch.optim.SGD(
        model.parameters(), lr=LR, momentum=0.9, use_combined_accum=True, accum_type=torch.float16
    )
    executor = poptorch.trainingModel(model, options(ReductionType.Mean, MeanReductionStrategy.Post), optimizer)
    strategy = executor.options.Training.meanAccumulationAndReplicationReductionStrategy
    assert strategy == MeanReductionStrategy.Post


def test_a_half_accumulator_after_compiling_is_refused():
    model = Regression()
    executor = poptorch.trainingModel(model, options(ReductionType.Mean, MeanReductionStrategy.Post))
    executor.compile(torch.zeros(DI * GA * R, 3), torch.zeros(DI * GA * R, 1))
    with pytest.raises(ValueError, match="Running"):
        executor.setOptimizer(poptorch.optim.SGD(model.parameters(), lr=LR, accum_type=torch.float16))


def test_frozen_and_unlisted_parameters_stay():
    model = Regression()
    model.net[0].bias.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    executor = poptorch.trainingModel(model, None, torch.optim.SGD(model.net[0].parameters(), lr=LR))
    executor(torch.randn(4, 3), torch.randn(4, 1))
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"net.0.weight"}


def test_the_strategy_that_popart_lacks_is_refused():
    model = Regression()
    executor = poptorch.trainingModel(model, options(ReductionType.Mean, MeanReductionStrategy.PostAndLoss))
    with pytest.raises(poptorch.Error, match="PostAndLoss"):
        executor.compile(torch.zeros(DI * GA * R, 3), torch.zeros(DI * GA * R, 1))
