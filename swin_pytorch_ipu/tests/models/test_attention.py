import math

import pytest
import torch

from models.attention import Attention, prefers_fused


def inputs(dtype=torch.float32, tokens=9, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 6, tokens, 8, generator=generator).to(dtype).requires_grad_() for _ in range(3))
    bias = torch.randn(6, tokens, tokens, generator=generator)
    bias[3, :, 4] = -100
    return q, k, v, bias.to(dtype).requires_grad_()


def by_loops(q, k, v, bias, scale):
    out = torch.zeros_like(q)
    for b, h, n in torch.cartesian_prod(*map(torch.arange, q.shape[:3])).tolist():
        scores = [float(q[b, h, n] @ key) * scale + float(bias[h, n, m]) for m, key in enumerate(k[b, h])]
        weights = [math.exp(score) for score in scores]
        out[b, h, n] = sum(w / sum(weights) * value for w, value in zip(weights, v[b, h]))
    return out


@pytest.mark.parametrize("path", ["explicit", "fused"])
@pytest.mark.parametrize("scale", [8**-0.5, 0.7])
def test_both_paths_follow_the_definition(path, scale):
    q, k, v, bias = (x.detach() for x in inputs(tokens=5))
    out = getattr(Attention(scale, 0.0), path)(q, k, v, bias)
    torch.testing.assert_close(out, by_loops(q, k, v, bias, scale), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_paths_agree_in_outputs_and_gradients(dtype, tolerance):
    results = []
    for path in ("explicit", "fused"):
        given = inputs(dtype)
        out = getattr(Attention(0.5, 0.0), path)(*given)
        out.float().square().sum().backward()
        results.append([out.detach(), *[x.grad / x.grad.abs().max() for x in given]])
    for explicit, fused in zip(*results):
        torch.testing.assert_close(explicit, fused, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("path", ["explicit", "fused"])
def test_dropout_zeroes_weights_and_keeps_the_mean(path):
    q = torch.zeros(1, 1, 400, 4)  # all weights are 1/400
    values = torch.eye(400)[None, None]  # so the output is the weights
    attention = Attention(0.5, 0.25)
    torch.manual_seed(0)
    weights = getattr(attention.train(), path)(q, q, values, torch.zeros(1, 400, 400)) * 400
    kept = weights > 0
    assert abs(kept.float().mean() - 0.75) < 0.01
    torch.testing.assert_close(weights[kept], torch.full_like(weights[kept], 1 / 0.75))
    evaluated = getattr(attention.eval(), path)(q, q, values, torch.zeros(1, 400, 400)) * 400
    torch.testing.assert_close(evaluated, torch.ones_like(evaluated))


@pytest.mark.parametrize(
    ("device", "dtype", "trained", "fused"),
    [
        ("cpu", torch.float32, False, True),
        ("cpu", torch.float32, True, False),  # torch has no fused kernel with a gradient for the bias
        ("cpu", torch.bfloat16, False, False),  # and a slow one for bfloat16
        ("meta", torch.float32, False, False),  # stands for a device that traces
    ],
)
def test_choice_of_path(monkeypatch, device, dtype, trained, fused):
    q = torch.zeros(1, 1, 2, 2, device=device, dtype=dtype)
    bias = torch.zeros(1, 2, 2, device=device, dtype=dtype, requires_grad=trained)
    assert prefers_fused(q, bias) == fused
    attention, taken = Attention(1.0, 0.0), []
    for name in ("explicit", "fused"):
        monkeypatch.setattr(attention, name, lambda *given, name=name: taken.append(name))
    attention(q, q, q, bias)
    assert taken == ["fused" if fused else "explicit"]


def test_hooks_see_scores_and_weights():
    attention, seen = Attention(1.0, 0.0), []
    attention.softmax.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    attention.softmax.register_forward_hook(lambda module, given, out: seen.append(out))
    q, k, v, bias = inputs()
    attention(q, k, v, bias)
    scores, weights = seen
    torch.testing.assert_close(scores, q @ k.transpose(-2, -1) + bias)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 6, 9))


@pytest.mark.parametrize(
    ("device", "dtype", "expected"),
    [
        ("cpu", torch.bfloat16, torch.float32),  # quicker, and closer
        ("cpu", torch.float16, torch.float16),
        ("meta", torch.bfloat16, torch.bfloat16),  # stands for a device that traces
        ("meta", torch.float16, torch.float16),
    ],
)
def test_type_of_the_softmax(device, dtype, expected):
    attention, seen = Attention(1.0, 0.0), []
    attention.softmax.register_forward_hook(lambda module, given, out: seen.append(out.dtype))
    q, k, v, bias = (x.to(device) for x in inputs(dtype))
    assert attention(q, k, v, bias).dtype == dtype
    assert seen == [expected]


def test_under_autocast_weights_and_values_are_multiplied_in_bfloat16():
    q, k, v, _ = inputs(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert Attention(1.0, 0.0)(q, k, v, inputs()[3]).dtype == torch.bfloat16
