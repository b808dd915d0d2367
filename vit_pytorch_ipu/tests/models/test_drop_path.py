"""Stochastic depth: samples go as a whole, and the rest makes up for them."""

import pytest
import torch

from models.drop_path import DropPath


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4)])
def test_drop_path_drops_whole_samples_and_keeps_the_mean(shape):
    torch.manual_seed(0)
    out = DropPath(0.3).train()(torch.ones(20000, *shape)).flatten(1)
    assert torch.equal(out, out[:, :1].expand_as(out))  # a sample goes as a whole
    kept = out[:, 0] > 0
    assert abs(kept.float().mean() - 0.7) < 0.01
    torch.testing.assert_close(out[kept], torch.full_like(out[kept], 1 / 0.7))


def test_without_training_or_probability_nothing_is_dropped():
    x = torch.randn(50, 2, 3)
    assert torch.equal(DropPath(0.3).eval()(x), x)
    assert torch.equal(DropPath(0.0).train()(x), x)
