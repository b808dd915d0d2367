from __future__ import annotations

import pytest
import torch
from torch import nn

import poptorch_host as poptorch
from poptorch_host.training import extremes


class Division(nn.Module):
    """With rows 1 everything is finite; a row 0 makes the loss infinite; a row -1 only the gradient."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x):
        weight = self.weight * 1
        weight.register_hook(lambda gradient: gradient + torch.where(x < 0, torch.inf, 0.0))
        return poptorch.identity_loss(weight / x.abs(), "sum")


def make(checked=True, lr=0.25, **optimizer):
    options = poptorch.Options().deviceIterations(4)
    options.Training.gradientAccumulation(2)
    options.Precision.enableFloatingPointExceptions(checked)
    model = Division()
    adam = poptorch.optim.Adam(model.parameters(), lr=lr, **optimizer)
    return model, adam, poptorch.trainingModel(model, options, adam)


GOOD = torch.ones(8)


def test_a_bad_loss_stops_before_the_weights_change():
    model, optimizer, executor = make()
    executor(GOOD)
    reference, reference_optimizer, twin = make()
    twin(GOOD)
    short = poptorch.Options().deviceIterations(1)
    short.Training.gradientAccumulation(2)
    rows = GOOD.clone()
    rows[5] = 0.0  # device iteration 2, second micro-batch
    with pytest.raises(poptorch.Error, match=r"loss of device iteration 2 .*learning rate 0.25"):
        executor(rows)
    state = optimizer.state_dict()["ipu_state"]
    weights = model.weight.detach().clone()
    twin(GOOD)  # two more updates than the one that stopped
    assert weights.isfinite().all()
    assert all(value.isfinite().all() for value in state.values())
    assert state["Step___weight"].item() == 4 + 2
    assert reference_optimizer.state_dict()["ipu_state"]["Step___weight"].item() == 8
    assert not torch.equal(weights, reference.weight.detach())


def test_a_bad_gradient_of_a_finite_loss_is_told_apart():
    model, _, executor = make(lr=0.125)
    rows = GOOD.clone()
    rows[0] = -1.0  # the loss is finite, its slope is not
    with pytest.raises(poptorch.Error, match=r"gradient of device iteration 0 .*0.125"):
        executor(rows)
    assert model.weight.tolist() == [1.0, 1.0, 1.0]


def test_the_executor_goes_on_after_the_error():
    model, _, executor = make()
    rows = GOOD.clone()
    rows[0] = float("nan")
    with pytest.raises(poptorch.Error, match="loss of device iteration 0"):
        executor(rows)
    executor(GOOD)
    assert model.weight.isfinite().all()
    assert model.weight[0] < 1


def test_without_the_option_nothing_is_checked():
    model, _, executor = make(checked=False)
    rows = GOOD.clone()
    rows[0] = 0.0
    executor(rows)
    assert not model.weight.isfinite().all()


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_bad_element_anywhere_is_found_and_large_ones_are_not(value, dtype):
    largest = torch.finfo(dtype).max
    tensors = [torch.full((3, 5), largest, dtype=dtype), torch.full((7,), -largest, dtype=dtype)]
    assert extremes(tensors).isfinite().all()
    for tensor in tensors:
        for index in range(tensor.numel()):
            spoilt = [other.clone() for other in tensors]
            next(s for s, t in zip(spoilt, tensors) if t is tensor).view(-1)[index] = value
            assert not extremes(spoilt).isfinite().all()
