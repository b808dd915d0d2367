"""Every update rule in float32 against the formulas, evaluated in float64 with numpy."""

from __future__ import annotations

import math
from typing import Any, Callable

import numpy as np
import pytest
import torch

import poptorch_host.optim as optim
from poptorch_host.updates import DeviceOptimizer

STEPS = 25
SHAPES = {"a.weight": (5, 3), "a.bias": (7,), "b.weight": (4, 2)}  # the first two are one group
LOSS_SCALING = 8.0
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def start() -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def gradient(step: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(100 + step)
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def rate(step: int) -> float:
    """A warm-up from 0, then a decay."""
    return 0.02 * min(step / 5, 1.0) * 0.97**step


class Program:
    """An optimizer with its device twin; the learning rates follow `rate`, the second group's are half of it."""

    def __init__(self, cls: type, second: dict[str, Any], device: str = "cpu", **arguments: Any) -> None:
        parameters = [torch.nn.Parameter(torch.from_numpy(value.copy())) for value in start().values()]
        self.weights = {n: p.detach().clone().to(device) for n, p in zip(SHAPES, parameters)}
        groups = [{"params": parameters[:2]}, {"params": parameters[2:], **second}]
        self.optimizer = cls(groups, lr=0.02, loss_scaling=LOSS_SCALING, **arguments)
        names = {id(p): name for name, p in zip(SHAPES, parameters)}
        self.device = DeviceOptimizer(self.optimizer, self.weights, names)

    def set_rate(self, step: int) -> None:
        self.optimizer.param_groups[0]["lr"] = rate(step)
        self.optimizer.param_groups[1]["lr"] = rate(step) / 2
        self.device.snapshot(self.optimizer)

    def step(self, step: int, divisor: int = 4, loss_scale: Any = LOSS_SCALING, **arguments: Any) -> None:
        scale = float(loss_scale) * divisor
        gradients = {name: torch.from_numpy(g) * scale for name, g in gradient(step).items()}
        gradients = {name: g.to(self.weights[name].device) for name, g in gradients.items()}
        self.device.step(gradients, loss_scale=loss_scale, divisor=divisor, running=False, **arguments)


def group_values(arguments: dict[str, Any], second: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: arguments if name.startswith("a") else {**arguments, **second} for name in SHAPES}


def sgd(w, g, s, t, lr, momentum=None, dampening=0.0, weight_decay=0.0, nesterov=False, factor=1.0, **_):
    if momentum is None:
        return w * (1 - lr * (1 - dampening) * weight_decay) - lr * (1 - dampening) * g * factor
    decayed = g + weight_decay * w
    s["v"] = momentum * s.get("v", 0.0) + (1 - dampening) * decayed
    return w - lr * (decayed + momentum * s["v"] if nesterov else s["v"])


def combined(w, g, s, t, lr, momentum, dampening=0.0, weight_decay=0.0, velocity_scaling=1.0, late=None, **_):
    preapplied = (1 - dampening) * velocity_scaling * weight_decay
    v = s.get("v", preapplied * w) + (1 - dampening) * velocity_scaling * g
    w = w - lr * v / velocity_scaling
    s["v"] = momentum * v + preapplied * w
    return w


def adam(w, g, s, t, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, **_):
    return adamw(w, g + weight_decay * w, s, t, lr, betas, eps, 0.0)


def adamw(w, g, s, t, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, **_):
    return w - lr * direction(w, g, s, t, betas, eps, weight_decay, True)


def direction(w, g, s, t, betas, eps, weight_decay, correct):
    s["m"] = betas[0] * s.get("m", 0.0) + (1 - betas[0]) * g
    s["v"] = betas[1] * s.get("v", 0.0) + (1 - betas[1]) * g * g
    first, second = (1 - betas[0] ** t, 1 - betas[1] ** t) if correct else (1.0, 1.0)
    return s["m"] / first / (np.sqrt(s["v"] / second) + eps) + weight_decay * w


def lamb(w, g, s, t, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, bias_correction=True, **rest):
    u = direction(w, g, s, t, betas, eps, weight_decay, bias_correction)
    largest = rest.get("max_weight_norm", 65500.0)
    weight_norm, norm = min(np.linalg.norm(w), 65500.0 if largest is None else largest), np.linalg.norm(u)
    return w - lr * (weight_norm / norm if weight_norm * norm > 0 else 1.0) * u


def rmsprop(w, g, s, t, lr, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False, **rest):
    tf = rest.get("use_tf_variant", False)
    g = g + weight_decay * w
    s["v"] = alpha * s.get("v", 1.0 if tf else 0.0) + (1 - alpha) * g * g
    variance = s["v"]
    if centered:
        s["mean"] = alpha * s.get("mean", 0.0) + (1 - alpha) * g
        variance = variance - s["mean"] ** 2
    s["b"] = momentum * s.get("b", 0.0) + g / (np.sqrt(variance + eps) if tf else np.sqrt(variance) + eps)
    return w - lr * s["b"]


MOMENTUM: dict[str, Any] = {"momentum": 0.9, "weight_decay": 0.05}
MOMENTS: dict[str, Any] = {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}
CASES: dict[str, tuple[type, Callable[..., Any], dict[str, Any], dict[str, Any]]] = {
    "sgd0": (optim.SGD, sgd, {"weight_decay": 0.05, "dampening": 0.3}, {"weight_decay": 0.0}),
    "sgd, velocity": (optim.SGD, sgd, {**MOMENTUM, "dampening": 0.3}, {"momentum": 0.5}),
    "sgd, momentum 0": (optim.SGD, sgd, {"momentum": 0.0, "dampening": 0.3}, {}),
    "sgd, combined": (
        optim.SGD,
        combined,
        {**MOMENTUM, "dampening": 0.2, "use_combined_accum": True, "velocity_scaling": 4.0},
        {"weight_decay": 0.2, "velocity_scaling": 0.5},
    ),
    "adam": (optim.Adam, adam, MOMENTS, {"eps": 1e-2, "weight_decay": 0.0}),
    "adamw": (optim.AdamW, adamw, MOMENTS, {"betas": (0.5, 0.9), "weight_decay": 0.0}),
    "adamw, defaults": (optim.AdamW, adamw, {}, {}),
    "adamw, always corrected": (optim.AdamW, adamw, {"bias_correction": False}, {}),
    "lamb": (optim.LAMB, lamb, {**MOMENTS, "max_weight_norm": None}, {"max_weight_norm": 0.0}),
    "lamb, capped": (optim.LAMB, lamb, {**MOMENTS, "max_weight_norm": 1.5}, {"max_weight_norm": 65535}),
    "lamb, uncorrected": (optim.LAMB, lamb, {"bias_correction": False}, {}),
    "rmsprop": (optim.RMSprop, rmsprop, {"alpha": 0.9, "weight_decay": 0.1}, {"eps": 1e-2}),
    "rmsprop, all": (
        optim.RMSprop,
        rmsprop,
        {"alpha": 0.9, "eps": 1e-3, "momentum": 0.8, "centered": True, "use_tf_variant": True},
        {"momentum": 0.5, "alpha": 0.8},
    ),
    "rmsprop, centred": (optim.RMSprop, rmsprop, {"alpha": 0.9, "eps": 0.1, "centered": True}, {}),
}


def assert_close(weights: dict[str, torch.Tensor], expected: dict[str, np.ndarray]) -> None:
    for name, weight in weights.items():
        error = np.abs(weight.cpu().double().numpy() - expected[name]).max()
        assert error <= 1e-6 * np.abs(expected[name]).max(), f"{name}: {error}"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES)
def test_rule_follows_its_formula(case: str, device: str) -> None:
    cls, formula, arguments, second = CASES[case]
    program = Program(cls, second, device, **arguments)
    values = group_values(arguments, second)
    expected = {name: value.astype(np.float64) for name, value in start().items()}
    states: dict[str, dict[str, Any]] = {name: {} for name in SHAPES}
    for step in range(STEPS):
        program.set_rate(step)
        program.step(step)
        for name, g in gradient(step).items():
            lr = rate(step) / (1 if name.startswith("a") else 2)
            expected[name] = formula(
                expected[name], g.astype(np.float64), states[name], step + 1, **{**values[name], "lr": lr}
            )
        assert_close(program.weights, expected)


def test_nesterov_undivided_sum() -> None:
    """The gradient in front of Nesterov's momentum is not divided under Post; the velocity's is."""
    program = Program(optim.SGD, {}, nesterov=True, **MOMENTUM)
    single = Program(optim.SGD, {}, nesterov=True, **MOMENTUM)
    w = {name: value.astype(np.float64) for name, value in start().items()}
    plain = dict(w)
    states: dict[str, dict[str, Any]] = {name: {} for name in SHAPES}
    plain_states: dict[str, dict[str, Any]] = {name: {} for name in SHAPES}
    for step in range(STEPS):
        program.step(step, divisor=4)
        single.step(step, divisor=1)
        for name, g in gradient(step).items():
            g = g.astype(np.float64)
            plain[name] = sgd(plain[name], g, plain_states[name], step, 0.02, nesterov=True, **MOMENTUM)
            w[name] = sgd(w[name], g, states[name], step, 0.02, nesterov=True, **MOMENTUM) - 0.02 * 3 * g
        assert_close(program.weights, w)
        assert_close(single.weights, plain)


def test_combined_takes_new_values_one_step_late() -> None:
    """At step t momentum and decay of step t - 1 act, and the learning rate of step t."""
    program = Program(optim.SGD, {}, use_combined_accum=True, **MOMENTUM)
    separate = {name: value.astype(np.float64) for name, value in start().items()}
    velocities: dict[str, Any] = dict.fromkeys(SHAPES, 0.0)
    previous = (0.9, 0.05)
    for step in range(STEPS):
        momentum, decay, lr = 0.9 - 0.02 * step, 0.05 + 0.01 * step, rate(step)
        for group in program.optimizer.param_groups:
            group.update(momentum=momentum, weight_decay=decay, lr=lr)
        program.device.snapshot(program.optimizer)
        program.step(step)
        if step == 0:
            previous = (0.0, 0.05)  # what was put in when the model was compiled
        for name, g in gradient(step).items():
            velocities[name] = previous[0] * velocities[name] + g + previous[1] * separate[name]
            separate[name] = separate[name] - lr * velocities[name]
        previous = (momentum, decay)
        assert_close(program.weights, separate)


@pytest.mark.parametrize("cls", [optim.AdamW, optim.Adam, optim.SGD])
@pytest.mark.parametrize("momentum", [0.9, None])
def test_max_grad_norm(cls: type, momentum: float | None) -> None:
    """Adam limits the true gradient (L2 term included), SGD the velocity or the gradient as it arrives."""
    if cls is not optim.SGD:
        arguments: dict[str, Any] = {"weight_decay": 0.3, "max_grad_norm": 5.0}
    elif momentum is None:
        arguments = {"weight_decay": 0.3, "max_grad_norm": 100.0, "dampening": 0.5}
    else:
        arguments = {"weight_decay": 0.3, "max_grad_norm": 30.0, "momentum": momentum}
    program = Program(cls, {}, **arguments)
    w = {name: value.astype(np.float64) for name, value in start().items()}
    states: dict[str, dict[str, Any]] = {name: {} for name in SHAPES}
    limit, factors = arguments["max_grad_norm"], []
    for step in range(STEPS):
        program.step(step)
        g = {name: value.astype(np.float64) for name, value in gradient(step).items()}
        if cls is optim.Adam:
            g = {name: value + 0.3 * w[name] for name, value in g.items()}
        if "momentum" in arguments:
            for name in SHAPES:
                states[name]["v"] = momentum * states[name].get("v", 0.0) + g[name] + 0.3 * w[name]
            limited, unit = {name: states[name]["v"] for name in SHAPES}, LOSS_SCALING
        else:
            limited, unit = g, LOSS_SCALING * 4 if cls is optim.SGD else 1.0
        norm = math.sqrt(sum(float((value**2).sum()) for value in limited.values())) * unit
        factors.append(limit / max(limit, norm))
        for name in SHAPES:
            value = limited[name] * factors[-1]
            if cls is optim.SGD:
                undamped = value if momentum is not None else 0.5 * (value + 0.3 * w[name])
                w[name] = w[name] - 0.02 * undamped
            else:
                decay = 0.3 if cls is optim.AdamW else 0.0
                w[name] = adamw(w[name], value, states[name], step + 1, 0.02, weight_decay=decay)
        assert_close(program.weights, w)
    assert min(factors) < 0.95
