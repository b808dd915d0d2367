from __future__ import annotations

import collections
import itertools

import pytest
import torch
from torch import nn

import poptorch_host as poptorch
from poptorch_host import OutputMode


class Echo(nn.Module):
    """Returns what it is given, and a scalar."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x, y=None):
        return (x + self.weight, x.float().mean()) if y is None else (x + self.weight, y)


class EchoLoss(Echo):
    def forward(self, x):
        return x.clone(), poptorch.identity_loss(x.mean() * self.weight + x.mean(), "mean")


def options(iterations=1, accumulation=1, replicas=1, mode=OutputMode.Default, period=None):
    result = poptorch.Options().deviceIterations(iterations).replicationFactor(replicas)
    result.Training.gradientAccumulation(accumulation)
    return result.outputMode(mode, period)


def train(x, **settings):
    return poptorch.trainingModel(EchoLoss(), options(**settings))(x)


def rows_of(iterations, accumulation, replicas, micro_batch, wanted):
    """Rows of the micro-batches that `wanted` accepts, by the order iteration, step, replica, sample."""
    index = itertools.product(range(iterations), range(accumulation), range(replicas), range(micro_batch))
    return [row for row, (i, a, r, _) in enumerate(index) if wanted(i, a, r)]


DI, GA, R, MB = 4, 3, 2, 5
ROWS = DI * GA * R * MB


@pytest.mark.parametrize(
    ("mode", "period", "wanted", "scalars"),
    [
        (OutputMode.All, None, lambda i, a, r: True, DI * GA * R),
        (OutputMode.EveryN, 2, lambda i, a, r: i % 2 == 1, DI // 2 * GA * R),
        (OutputMode.Final, None, lambda i, a, r: i == DI - 1 and a == GA - 1, R),
        (OutputMode.Default, None, lambda i, a, r: i == DI - 1 and a == GA - 1, R),
    ],
)
def test_training_outputs_are_the_rows_of_the_chosen_micro_batches(mode, period, wanted, scalars):
    x = torch.arange(ROWS, dtype=torch.float32)[:, None]
    out, loss = train(x, iterations=DI, accumulation=GA, replicas=R, mode=mode, period=period)
    expected = x[rows_of(DI, GA, R, MB, wanted)]
    assert torch.equal(out, expected)
    assert loss.shape == (scalars,)


def test_sum_adds_iterations_and_steps_but_not_replicas():
    x = torch.arange(ROWS, dtype=torch.float32)[:, None]
    out, loss = train(x, iterations=DI, accumulation=GA, replicas=R, mode=OutputMode.Sum)
    expected = x.view(DI, GA, R, MB, 1).sum((0, 1)).view(R * MB, 1)
    assert torch.equal(out, expected)
    assert loss.shape == (R,)


def test_sum_of_half_outputs_is_rounded_once():
    model = poptorch.inferenceModel(Echo(), options(iterations=1000, mode=OutputMode.Sum))
    out, _ = model(torch.full((1000, 1), 1.0 + 2**-7, dtype=torch.float16))
    assert out.dtype == torch.float16
    assert out.item() == pytest.approx(1000 * (1 + 2**-7), rel=2**-11)


def test_inference_returns_all_by_default_and_keeps_a_lone_scalar_without_dimensions():
    x = torch.rand(6, 2)
    out, mean = poptorch.inferenceModel(Echo(), options(iterations=3))(x)
    assert torch.equal(out, x)
    assert torch.equal(mean, x.view(3, 4).mean(1))
    assert poptorch.inferenceModel(Echo())(x)[1].shape == ()


def test_each_input_is_cut_by_its_own_dimension_zero():
    class Mixup(Echo):
        def forward(self, images, weight):
            return images * weight  # (4, 1) * (1,): one coefficient for each micro-batch

    images, weights = torch.ones(12, 1), torch.tensor([1.0, 2.0, 3.0])
    out = poptorch.inferenceModel(Mixup(), options(iterations=3))(images, weights)
    assert out.flatten().tolist() == [1.0] * 4 + [2.0] * 4 + [3.0] * 4


def test_rows_that_cannot_be_dealt_out_are_refused_with_the_factors():
    model = poptorch.trainingModel(EchoLoss(), options(iterations=2, accumulation=3))
    with pytest.raises(AssertionError, match=r"\(8, 1\).*multiple of 6 = 2 .* x 3 .* x 1"):
        model(torch.zeros(8, 1))
    with pytest.raises(AssertionError, match=r"\(0, 1\).*multiple of 6"):
        model(torch.zeros(0, 1))


def test_a_scalar_input_is_one_row():
    class Scale(Echo):
        def forward(self, x, factor):
            return x * factor

    assert poptorch.inferenceModel(Scale())(torch.ones(2), torch.tensor(3.0)).tolist() == [3.0, 3.0]
    with pytest.raises(AssertionError, match="multiple of 2"):
        poptorch.inferenceModel(Scale(), options(iterations=2))(torch.ones(2), torch.tensor(3.0))


@pytest.mark.parametrize(
    ("given", "returned"),
    [
        (torch.int64, torch.int32),
        (torch.float64, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float16),
        (torch.float32, torch.float32),
        (torch.int32, torch.int32),
        (torch.bool, torch.bool),
        (torch.uint8, torch.uint8),
    ],
)
def test_types_at_the_boundary(given, returned):
    class Same(Echo):
        def forward(self, x):
            return x.reshape(-1)

    x = torch.tensor([0, 1, 1]).to(given)
    out = poptorch.inferenceModel(Same())(x)
    assert out.dtype == returned
    assert torch.equal(out.double(), x.double())


def test_nested_outputs_and_constants_keep_their_structure():
    Pair = collections.namedtuple("Pair", "left right")

    class Nested(Echo):
        def forward(self, x):
            return {"a": [x, (x * 2,)], "b": Pair(x.sum(), "text"), "c": None}

    x = torch.arange(4.0)
    out = poptorch.inferenceModel(Nested(), options(iterations=2))(x)
    assert torch.equal(out["a"][1][0], x * 2)
    assert type(out["b"]).__name__ == "Pair"
    assert out["b"].left.tolist() == [1.0, 5.0]
    assert out["b"].right == "text"
    assert out["c"] is None


def test_nested_and_keyword_inputs():
    class Nested(Echo):
        def forward(self, pair, *, scale, flag=True):
            return (pair[0] + pair[1]["x"]) * scale if flag else pair[0]

    x = torch.arange(4.0)
    model = poptorch.inferenceModel(Nested(), options(iterations=2))
    assert torch.equal(model((x, {"x": x}), scale=torch.tensor([1.0, 10.0])), torch.tensor([0.0, 2.0, 40.0, 60.0]))


def test_outputs_do_not_share_memory_with_weights_or_inputs():
    class Leak(Echo):
        def forward(self, x):
            return x.view(-1), self.weight.view(1), poptorch.identity_loss((x * self.weight).sum(), "sum")

    model = poptorch.trainingModel(Leak())
    x = torch.ones(3)
    same, weight, _ = model(x)
    x.zero_()
    model(x)
    assert same.tolist() == [1.0, 1.0, 1.0]
    assert weight.tolist() == [0.0]  # before the update of its call


def test_every_n_needs_a_period_that_divides_the_iterations():
    for period in (3, 8):
        with pytest.raises(poptorch.Error, match="EveryN"):
            train(torch.zeros(4, 1), iterations=4, mode=OutputMode.EveryN, period=period)


def test_backward_on_an_output_is_an_error():
    _, loss = train(torch.ones(2, 1))
    assert not loss.requires_grad
    with pytest.raises(poptorch.Error, match="backward"):
        loss.backward()
