from __future__ import annotations

import pytest
import torch
from torch import nn

import poptorch_host as poptorch


class Chain(nn.Module):
    """Tracked are h, with gradient 2·scale, and z, with gradient scale: as many elements of each."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))

    def forward(self, x):
        h = self.weight * x
        z = (h * 2).reshape(-1)
        return poptorch.identity_loss(z, "sum")


def factors(steps, numerics="fast", accumulation=1, **settings):
    """The scale used and the new factor of each step, beginning with a loss scaling of 1."""
    options = poptorch.Options()
    options.Training.setAutomaticLossScaling(True).gradientAccumulation(accumulation)
    for name, value in settings.items():
        options._Popart.set(f"automaticLossScalingSettings.{name}", value)
    options.anchorTensor("used", "finalLossScale")
    options.anchorTensor("factor", "lossScaleUpdateFactor")
    model = Chain().half()
    executor = poptorch.trainingModel(model, options, poptorch.optim.SGD(model.parameters(), lr=0.0))
    used, new = [], []
    for _ in range(steps):
        executor(torch.ones(accumulation, dtype=torch.float16))
        used.append(executor.getAnchoredTensor("used").item())
        new.append(executor.getAnchoredTensor("factor").item())
    return used, new


@pytest.mark.parametrize("numerics", ["fast", "exact"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_factor_doubles_until_an_element_passes_the_edge_and_then_swings(monkeypatch, numerics, accumulation):
    monkeypatch.setenv("POPTORCH_HOST_NUMERICS", numerics)
    used, new = factors(16, accumulation=accumulation)
    # 2 · 4096 = 8192 > 8188 halves; 2 · 2048 does not.
    assert used == [2.0**k for k in range(13)] + [2048.0, 4096.0, 2048.0]
    assert new == [*used[1:], 4096.0]


def test_the_proportion_of_large_elements_decides():
    used, _ = factors(15, thresholdUpperCountProportion=0.6)
    assert used == [2.0**k for k in range(14)] + [4096.0]  # half of them large is not enough: z must pass 8188 too


def test_the_edge_is_a_share_of_the_largest_half():
    used, _ = factors(8, binEdgeLocation=0.125 / 256)  # 8188 / 256 = 31.98
    assert used == [1.0, 2.0, 4.0, 8.0, 16.0, 8.0, 16.0, 8.0]


def test_the_factor_changes_once_per_period():
    used, _ = factors(7, updatePeriod=3)
    assert used == [1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 4.0]


def test_a_large_gradient_counts_until_the_period_is_over():
    options = poptorch.Options().deviceIterations(2)
    options.Training.setAutomaticLossScaling(True)
    options._Popart.set("automaticLossScalingSettings.updatePeriod", 2)
    model = Chain().half()
    executor = poptorch.trainingModel(
        model, options, poptorch.optim.SGD(model.parameters(), lr=0.0, loss_scaling=5000.0)
    )
    executor(torch.ones(2, dtype=torch.float16))
    assert executor._program.loss_scale.factor.item() == 0.5


def test_which_tensors_are_tracked():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            h = self.first(x)  # no gradient of x
            a = torch.tanh(self.second(h))  # gradient of h by a product with a weight; of second(h) by tanh
            b = a.view(2, 2, -1).transpose(1, 2)  # moves data only
            c = b @ b.transpose(1, 2)  # gradients of b and of its transpose by products without weights
            return poptorch.identity_loss(c, "mean")  # gradient of c

    for method, expected in ((0, 4), (1, 3)):  # 0: second(h), b, bᵀ, c; 1: h, b, bᵀ
        options = poptorch.Options()
        options.Training.setAutomaticLossScaling(True)
        options._Popart.set("automaticLossScalingSettings.gradientTensorTrackingMethod", method)
        executor = poptorch.trainingModel(Mixed().half(), options)
        executor.compile(torch.ones(2, 4, dtype=torch.float16))
        assert executor._program._mode.tracked == expected


def test_a_tensor_that_two_operators_consume_counts_once():
    class Twice(Chain):
        def forward(self, x):
            h = self.weight * x
            return poptorch.identity_loss(h.exp() + h.sin(), "sum")

    options = poptorch.Options()
    options.Training.setAutomaticLossScaling(True)
    executor = poptorch.trainingModel(Twice().half(), options)
    executor.compile(torch.ones(1, dtype=torch.float16))
    assert executor._program._mode.tracked == 4  # h, its exp, its sin and their sum


def test_the_weights_do_not_depend_on_the_scale():
    def weights(automatic):
        options = poptorch.Options()
        options.Training.setAutomaticLossScaling(automatic)
        model = Chain().half()
        executor = poptorch.trainingModel(model, options, poptorch.optim.SGD(model.parameters(), lr=2.0**-8))
        for _ in range(6):
            executor(torch.ones(1, dtype=torch.float16))
        return model.weight.detach()

    assert torch.equal(weights(True), weights(False))
    assert weights(True)[0] == 1 - 6 * 2 * 2.0**-8


def test_the_factor_is_part_of_the_optimizers_state():
    def make(state=None):
        options = poptorch.Options()
        options.Training.setAutomaticLossScaling(True)
        model = Chain().half()
        optimizer = poptorch.optim.SGD(model.parameters(), lr=0.0)
        if state is not None:
            optimizer.load_state_dict(state)
        return optimizer, poptorch.trainingModel(model, options, optimizer)

    optimizer, executor = make()
    for _ in range(3):
        executor(torch.ones(1, dtype=torch.float16))
    state = optimizer.state_dict()
    assert state["ipu_state"]["lossScaleUpdateFactor"] == 8
    _, resumed = make(state)
    resumed(torch.ones(1, dtype=torch.float16))
    assert resumed._program.loss_scale.factor == 16


def test_a_float32_program_has_nothing_to_track():
    options = poptorch.Options()
    options.Training.setAutomaticLossScaling(True)
    with pytest.raises(poptorch.Error, match="no float16 gradients"):
        poptorch.trainingModel(Chain(), options).compile(torch.ones(1))


def test_a_pipeline_needs_accumulation():
    model = Chain().half()
    poptorch.BeginBlock(model, "all", ipu_id=1)
    options = poptorch.Options()
    options.Training.setAutomaticLossScaling(True)
    with pytest.raises(poptorch.Error, match="gradient accumulation"):
        poptorch.trainingModel(model, options).compile(torch.ones(1, dtype=torch.float16))


def test_a_longer_period_resumes_where_it_was():
    """Doubled after the steps 3 and 6: a program stopped after 4 must double after 2 further steps, not after 3."""

    def start():
        options = poptorch.Options()
        options.Training.setAutomaticLossScaling(True)
        options._Popart.set("automaticLossScalingSettings.updatePeriod", 3)
        model = Chain().half()
        optimizer = poptorch.optim.SGD(model.parameters(), lr=0.0)
        return optimizer, poptorch.trainingModel(model, options, optimizer)

    def factor(executor, calls):
        for _ in range(calls):
            executor(torch.ones(1, dtype=torch.float16))
        return float(executor._program.loss_scale.factor)

    optimizer, executor = start()
    assert factor(executor, 4) == 2
    resumed, second = start()
    resumed.load_state_dict(optimizer.state_dict())
    second.compile(torch.ones(1, dtype=torch.float16))
    assert torch.equal(second._program.loss_scale._counts, executor._program.loss_scale._counts)
    assert [factor(second, 1), factor(second, 1)] == [2, 4]
