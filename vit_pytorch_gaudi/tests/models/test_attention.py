import math

import pytest
import torch

from models import attention

PATHS = [attention.explicit_attention, attention.fused_attention]


def qkv(dtype=torch.float32, tokens=17):
    torch.manual_seed(0)
    return [torch.randn(2, 3, tokens, 8, dtype=torch.float64).to(dtype).requires_grad_() for _ in range(3)]


def by_loops(q, k, v):
    """softmax(q·k / √E) v, one query after the other."""
    out = torch.zeros_like(q)
    for index in torch.cartesian_prod(*map(torch.arange, q.shape[:3])).tolist():
        b, h, n = index
        weights = [math.exp(float(q[b, h, n] @ key) / math.sqrt(q.shape[-1])) for key in k[b, h]]
        out[b, h, n] = sum(w / sum(weights) * value for w, value in zip(weights, v[b, h]))
    return out


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("rows", [5, 1])
def test_both_paths_follow_the_definition(path, rows):
    q, k, v = [x.detach() for x in qkv(torch.float64, tokens=5)]
    torch.testing.assert_close(path(q[:, :, :rows], k, v, 0.0), by_loops(q[:, :, :rows], k, v))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_paths_agree_in_outputs_and_gradients(dtype, tolerance):
    results = []
    for path in PATHS:
        inputs = qkv(dtype)
        out = path(*inputs, 0.0)
        out.float().square().sum().backward()
        results.append([out.detach(), *[x.grad / x.grad.abs().max() for x in inputs]])
    for explicit, fused in zip(*results):
        torch.testing.assert_close(explicit, fused, rtol=tolerance, atol=tolerance)


def test_dropout_zeroes_weights_and_keeps_the_mean():
    q = torch.zeros(1, 1, 400, 4)  # all weights are 1/400
    values = torch.eye(400)[None, None]  # so the output is the weights
    torch.manual_seed(0)
    for path in PATHS:
        weights = path(q, q, values, 0.25) * 400
        kept = weights > 0
        assert abs(kept.float().mean() - 0.75) < 0.01
        torch.testing.assert_close(weights[kept], torch.full_like(weights[kept], 1 / 0.75))


@pytest.mark.parametrize(
    ("device", "dtype", "fused"),
    [
        ("cpu", torch.float32, True),
        ("cpu", torch.bfloat16, False),
        ("meta", torch.float32, False),  # stands for an HPU
    ],
)
def test_choice_of_path(monkeypatch, device, dtype, fused):
    taken = []
    for name in ("explicit_attention", "fused_attention"):
        monkeypatch.setattr(attention, name, lambda q, k, v, dropout, name=name: taken.append(name))
    q = torch.zeros(1, 1, 2, 2, device=device, dtype=dtype)
    attention.attend(q, q, q)
    assert taken == ["fused_attention" if fused else "explicit_attention"]
