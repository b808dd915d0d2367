from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import poptorch_host as poptorch
from poptorch_host import attention


@pytest.mark.parametrize("mask", [None, "bool", "float"])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_explicit_attention_is_torchs(mask, scale):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, e, dtype=torch.float64, requires_grad=True) for n, e in ((5, 4), (7, 4), (7, 6)))
    if mask == "bool":
        mask = torch.rand(5, 7) > 0.3
        mask[:, 0] = True
    elif mask == "float":
        mask = torch.randn(3, 5, 7, dtype=torch.float64)
    weights = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    results = []
    for function in (attention.explicit_attention, F.scaled_dot_product_attention):
        out = function(q, k, v, attn_mask=mask, scale=scale)
        results.append([out, *torch.autograd.grad((out * weights).sum(), (q, k, v))])
    for mine, theirs in zip(*results):
        torch.testing.assert_close(mine, theirs)


def test_dropout_drops_weights_and_keeps_the_mean():
    torch.manual_seed(0)
    q = torch.zeros(1, 64, 8)
    v = torch.ones(1, 64, 8)
    out = attention.explicit_attention(q, q, v, dropout_p=0.5)
    assert out.std() > 0.01
    assert out.mean().item() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    ("dtype", "explicit"), [(torch.bfloat16, True), (torch.float32, False), (torch.float16, False)]
)
def test_the_choice_on_a_cpu(monkeypatch, dtype, explicit):
    called = []
    real = attention.explicit_attention
    monkeypatch.setattr(attention, "explicit_attention", lambda *a: (called.append(1), real(*a))[1])
    q = torch.randn(1, 2, 5, 4, dtype=dtype)
    out = attention.scaled_dot_product_attention(q, q, q)
    assert bool(called) is explicit
    expected = F.scaled_dot_product_attention(q.double(), q.double(), q.double())
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=0.02)
    attention.scaled_dot_product_attention(q, q, q, is_causal=True)
    assert len(called) == explicit


def test_a_wrapped_model_uses_the_chosen_kernel(monkeypatch):
    class Attend(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return F.scaled_dot_product_attention(x, x, x * self.weight)

    called = []
    monkeypatch.setattr(
        "poptorch_host.forward.scaled_dot_product_attention",
        lambda *a, **k: (called.append(1), attention.scaled_dot_product_attention(*a, **k))[1],
    )
    x = torch.randn(1, 2, 5, 4)
    out = poptorch.inferenceModel(Attend())(x)
    assert called
    torch.testing.assert_close(out, F.scaled_dot_product_attention(x, x, x))
