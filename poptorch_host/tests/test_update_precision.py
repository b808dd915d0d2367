"""Float16 storage: where the update rounds, which types the state has, and what stochastic rounding saves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import poptorch_host.optim as optim
from poptorch_host.updates import DeviceOptimizer

HALF, SINGLE = torch.float16, torch.float32
NUMPY = {HALF: np.float16, SINGLE: np.float32}
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POPTORCH_HOST_NUMERICS", "exact")


def device_optimizer(cls: type, weight: Tensor, stochastic: bool = False, **arguments: Any) -> DeviceOptimizer:
    parameter = torch.nn.Parameter(weight.detach().cpu().clone())
    optimizer = cls([parameter], **arguments)
    names = {id(parameter): "w"}
    return DeviceOptimizer(optimizer, {"w": weight}, names, stochastic_rounding=stochastic)


def types(accum: torch.dtype, first: torch.dtype, second: torch.dtype) -> dict[str, Any]:
    return {
        "accum_type": accum,
        "first_order_momentum_accum_type": first,
        "second_order_momentum_accum_type": second,
    }


def rounded(value: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    return value.astype(NUMPY[dtype]).astype(np.float64)


@pytest.mark.parametrize("weight_type", [HALF, SINGLE])
@pytest.mark.parametrize(("first", "second"), [(HALF, SINGLE), (HALF, HALF), (SINGLE, SINGLE)])
def test_adamw_rounds_where_popart_does(weight_type: torch.dtype, first: torch.dtype, second: torch.dtype) -> None:
    """Moments and corrections in their types, quotient in v's, sum with the decay and update in the weight's."""
    random = np.random.default_rng(0)
    w = rounded(random.normal(size=500), weight_type)
    m, v = np.zeros(500), np.zeros(500)
    weight = torch.from_numpy(w).to(weight_type)
    arguments: dict[str, Any] = {"lr": 0.125, "betas": (0.75, 0.875), "eps": 2**-10, "weight_decay": 0.25}
    device = device_optimizer(optim.AdamW, weight, **arguments, **types(HALF, first, second))
    widened = first is second is SINGLE
    for step in range(1, 21):
        g = rounded(random.normal(size=500), HALF)
        device.step({"w": torch.from_numpy(g).half()}, loss_scale=3.0, divisor=1, running=True)
        g = g / 3 if widened else rounded(g / 3, HALF)
        m, v = rounded(0.75 * m + 0.25 * g, first), rounded(0.875 * v + 0.125 * g * g, second)
        corrections = rounded(np.array(1 - 0.75**step), first), rounded(np.array(1 - 0.875**step), second)
        u = rounded(m / corrections[0] / (np.sqrt(v / corrections[1]) + 2**-10), second)
        u = rounded(u + 0.25 * w, weight_type)
        w = rounded(w - 0.125 * u, weight_type)
        actual = weight.double().numpy()
        if weight_type is SINGLE:
            np.testing.assert_allclose(actual, w, rtol=0, atol=2e-3 if second is HALF else 2e-5)
        else:  # float32 in between may tip a value that lies halfway
            assert np.mean(actual == w) > 0.97
            np.testing.assert_allclose(actual, w, rtol=0, atol=2**-9)
        w, state = actual, device.state()  # such a difference must not grow
        m, v = state["Accl1___w"].double().numpy(), state["Accl2___w"].double().numpy()


@pytest.mark.parametrize("cls", [optim.Adam, optim.AdamW, optim.LAMB, optim.RMSprop])
def test_gradient_is_widened_before_unscaling_only_if_both_moments_are_float32(cls: type) -> None:
    """2^-24, float16's smallest number, over a loss scale of 4: kept in float32, lost in float16."""
    smallest, state_name = torch.full((3,), 2.0**-24, dtype=HALF), "Accl2___w"
    for second, expected in ((SINGLE, 1.0), (HALF, 0.0)):
        weight = torch.ones(3, dtype=HALF)
        asked = types(HALF, HALF if second is HALF else SINGLE, SINGLE)
        device = device_optimizer(cls, weight, weight_decay=0.0, **asked)
        device.step({"w": smallest.clone()}, loss_scale=4.0, divisor=1, running=True)
        decay = 0.01 if cls is optim.RMSprop else 0.001
        assert device.state()[state_name][0].item() == pytest.approx(expected * decay * 2.0**-52, rel=1e-4)


def test_float32_accumulators_unscale_in_float32() -> None:
    """With a gradient in float32, as an accumulator of that type is, nothing is lost whatever the moments are."""
    weight = torch.ones(3, dtype=HALF)
    device = device_optimizer(optim.AdamW, weight, **types(SINGLE, HALF, SINGLE))
    device.step({"w": torch.full((3,), 2.0**-24)}, loss_scale=4.0, divisor=1, running=False)
    assert device.state()["Accl2___w"][0].item() == pytest.approx(0.001 * 2.0**-52, rel=1e-4)


@pytest.mark.parametrize("numerics", ["exact", "fast"])
def test_storage_types(numerics: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As asked in exact; float32 in fast, which keeps float32 masters."""
    monkeypatch.setenv("POPTORCH_HOST_NUMERICS", numerics)
    weight = torch.ones(3, dtype=HALF if numerics == "exact" else SINGLE)
    device = device_optimizer(optim.AdamW, weight, **types(HALF, HALF, SINGLE))
    state = device.state()
    assert state["Accl1___w"].dtype is (HALF if numerics == "exact" else SINGLE)
    assert state["Accl2___w"].dtype is state["Step___w"].dtype is SINGLE
    assert device.accum_type is HALF
    assert device.accumulates_running
    sgd = device_optimizer(optim.SGD, weight.clone(), lr=0.1, momentum=0.9, accum_type=HALF, velocity_accum_type=HALF)
    assert sgd.state()["Accl1___w"].dtype is (HALF if numerics == "exact" else SINGLE)
    shared = device_optimizer(optim.SGD, weight.clone(), lr=0.1, momentum=0.9, accum_type=HALF, use_combined_accum=True)
    assert shared.state()["Accl1___w"].dtype is weight.dtype
    assert not shared.accumulates_running


@pytest.mark.parametrize("device_type", DEVICES)
@pytest.mark.parametrize(
    ("cls", "arguments"),
    [
        (optim.SGD, {}),
        (optim.SGD, {"momentum": 0.5}),
        (optim.SGD, {"momentum": 0.5, "use_combined_accum": True}),
        (optim.AdamW, {"weight_decay": 0.0, "eps": 1.0}),
        (optim.RMSprop, {"eps": 1.0}),
    ],
)
def test_small_updates_survive_on_average(cls: type, arguments: dict[str, Any], device_type: str) -> None:
    """Updates of 1/40 of the spacing of float16 at 1: lost to nearest, unbiased stochastically.

    The float32 program is the reference. Each of n elements ends at most a spacing d from it per step, rounding
    independently with a variance of at most d²/4: the mean of n after k steps has a deviation below d/2·sqrt(k/n).
    """
    count, steps, spacing = 20_000, 60, 2.0**-11  # weights just below 1
    gradient = torch.full((count,), 0.5, device=device_type)
    drifts = {}
    torch.manual_seed(0)
    for name, dtype, stochastic in (("nearest", HALF, False), ("random", HALF, True), ("float32", SINGLE, False)):
        weight = torch.full((count,), 0.999, device=device_type).half().to(dtype)
        before = weight.double().mean()
        device = device_optimizer(cls, weight, stochastic, lr=spacing / 20, **arguments)
        for _ in range(steps):
            device.step({"w": gradient.to(dtype)}, loss_scale=1.0, divisor=1, running=False)
        drifts[name] = (weight.double().mean() - before).item()
    assert drifts["nearest"] == 0.0
    assert drifts["float32"] < -spacing / 2
    assert drifts["random"] == pytest.approx(drifts["float32"], abs=5 * spacing / 2 * (steps / count) ** 0.5)


def test_lamb_without_trust_is_adamw() -> None:
    """In half precision too, where no fused kernel takes part."""
    weights = [torch.linspace(-2, 2, 100).half() for _ in range(2)]
    asked = {"lr": 0.01, "weight_decay": 0.1, **types(HALF, HALF, SINGLE)}
    lamb = device_optimizer(optim.LAMB, weights[0], max_weight_norm=0.0, **asked)
    adamw = device_optimizer(optim.AdamW, weights[1], **asked)
    for step in range(10):
        gradient = torch.linspace(step, -1, 100).half()
        lamb.step({"w": gradient.clone()}, loss_scale=1.0, divisor=1, running=True)
        adamw.step({"w": gradient}, loss_scale=1.0, divisor=1, running=True)
    assert torch.equal(*weights)


def test_norm_saturates_in_half() -> None:
    """Eight gradients of 300: the sum of squares 720000 saturates at 65504, so the factor is 5/256 and not 5/849."""
    weight = torch.zeros(8, dtype=HALF)
    device = device_optimizer(
        optim.AdamW, weight, lr=1.0, max_grad_norm=5.0, **types(HALF, HALF, SINGLE), weight_decay=0.0
    )
    device.step({"w": torch.full((8,), 300.0, dtype=HALF)}, loss_scale=1.0, divisor=1, running=True)
    moment = device.state()["Accl1___w"].float()
    torch.testing.assert_close(moment, torch.full((8,), 0.1 * 300 * 5 / 256), rtol=2e-3, atol=0)


def test_resume_is_exact_in_half() -> None:
    """State in its storage types and torch's random state give the same bits again."""
    arguments: dict[str, Any] = {"lr": 1e-3, **types(HALF, HALF, SINGLE)}
    weight = torch.linspace(-1, 1, 64).half()
    device = device_optimizer(optim.AdamW, weight, True, **arguments)
    gradients = [torch.randn(64, generator=torch.Generator().manual_seed(s)).half() for s in range(6)]
    torch.manual_seed(3)
    for g in gradients[:3]:
        device.step({"w": g.clone()}, loss_scale=1.0, divisor=1, running=True)
    saved, state, random_state = weight.clone(), device.state(), torch.get_rng_state()
    for g in gradients[3:]:
        device.step({"w": g.clone()}, loss_scale=1.0, divisor=1, running=True)
    resumed = device_optimizer(optim.AdamW, saved, True, **arguments)
    resumed.load_state(state)
    torch.set_rng_state(random_state)
    for g in gradients[3:]:
        resumed.step({"w": g.clone()}, loss_scale=1.0, divisor=1, running=True)
    assert torch.equal(saved, weight)
    assert all(torch.equal(value, device.state()[key]) for key, value in resumed.state().items())
