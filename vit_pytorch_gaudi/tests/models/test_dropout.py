"""Dropout by bits, against torch's and the binomial distribution."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models import dropout

PATHS = [dropout.dropout_by_bits, F.dropout]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("probability", [0.1, 0.5, 0.93])
def test_the_share_dropped_and_the_scale(path, dtype, probability):
    torch.manual_seed(0)
    out = path(torch.ones(1000, 1001, dtype=dtype), probability)
    kept = out != 0
    deviation = math.sqrt(probability * (1 - probability) / out.numel())
    assert abs(kept.double().mean() - (1 - probability)) < 4 * deviation + 2**-17
    scaled = out[kept].double()
    torch.testing.assert_close(scaled, torch.full_like(scaled, 1 / (1 - probability)), rtol=0.005, atol=0)


def test_elements_are_dropped_independently():
    torch.manual_seed(0)
    kept = (dropout.dropout_by_bits(torch.ones(2000, 512), 0.3) != 0).double() - 0.7
    for distance in (1, 2, 3, 4, 512):  # four elements share a word
        flat = kept.flatten()
        correlation = (flat[:-distance] * flat[distance:]).mean() / 0.21
        assert abs(correlation) < 4 / math.sqrt(flat.numel())


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 4), (0, 4), ()])
def test_any_shape_and_gradients_pass_where_values_do(shape):
    torch.manual_seed(1)
    x = torch.ones(shape, requires_grad=True)
    out = dropout.dropout_by_bits(x, 0.5)
    assert out.shape == x.shape
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())


def test_the_generator_decides():
    x = torch.ones(100)
    outs = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        outs.append(dropout.dropout_by_bits(x, 0.5))
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])


def test_the_module_is_torchs_in_all_but_the_draw(monkeypatch):
    x = torch.ones(50, 50)
    module = dropout.Dropout(0.4)
    assert module.eval()(x) is x
    assert dropout.Dropout(0.0).train()(x) is x
    torch.manual_seed(0)
    by_bits = module.train()(x)
    torch.manual_seed(0)
    assert torch.equal(by_bits, dropout.dropout_by_bits(x, 0.4))
    torch.manual_seed(0)
    compiled = torch.compile(module, backend="eager", fullgraph=True)(x)
    torch.manual_seed(0)
    assert torch.equal(compiled, nn.Dropout(0.4)(x))  # compilers get torch's
    monkeypatch.setattr(dropout, "dropout_by_bits", None)  # other devices too
    assert module(torch.ones(2, device="meta")).shape == (2,)
