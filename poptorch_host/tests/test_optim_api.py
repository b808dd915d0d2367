"""The optimizers as a program sees them: signatures, attributes, states, schedulers, steps on the host."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
import warnings
from typing import Any

import pytest
import torch

import poptorch_host.optim as optim
from poptorch_host.errors import Error
from poptorch_host.updates import DeviceOptimizer

CLASSES = [optim.SGD, optim.Adam, optim.AdamW, optim.LAMB, optim.RMSprop]
SIGNATURES = {
    optim.SGD: "params lr momentum dampening weight_decay nesterov maximize foreach differentiable loss_scaling "
    "velocity_scaling use_combined_accum accum_type velocity_accum_type max_grad_norm",
    optim.Adam: "params lr betas eps weight_decay amsgrad foreach maximize capturable differentiable fused "
    "loss_scaling accum_type first_order_momentum_accum_type second_order_momentum_accum_type max_grad_norm",
    optim.AdamW: "params lr betas eps weight_decay amsgrad maximize foreach capturable differentiable fused "
    "loss_scaling bias_correction accum_type first_order_momentum_accum_type second_order_momentum_accum_type "
    "max_grad_norm",
    optim.LAMB: "params lr betas eps weight_decay bias_correction loss_scaling max_weight_norm accum_type "
    "first_order_momentum_accum_type second_order_momentum_accum_type",
    optim.RMSprop: "params lr alpha eps weight_decay momentum centered foreach maximize differentiable "
    "loss_scaling accum_type first_order_momentum_accum_type second_order_momentum_accum_type use_tf_variant",
}


def parameters() -> list[torch.nn.Parameter]:
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(3, 2)), torch.nn.Parameter(torch.randn(4))]


def wrapped(optimizer: Any) -> DeviceOptimizer:
    tensors = [p for group in optimizer.param_groups for p in group["params"]]
    weights = {str(i): p.detach().clone() for i, p in enumerate(tensors)}
    return DeviceOptimizer(optimizer, weights, {id(p): str(i) for i, p in enumerate(tensors)})


@pytest.mark.parametrize("cls", CLASSES)
def test_signatures(cls: type) -> None:
    arguments = inspect.signature(cls).parameters
    assert " ".join(arguments) == SIGNATURES[cls]
    required = [name for name, p in arguments.items() if p.default is inspect.Parameter.empty]
    assert required == (["params", "lr"] if cls is optim.SGD else ["params"])
    assert all(p.default is None for name, p in arguments.items() if name not in required)


@pytest.mark.parametrize("cls", CLASSES)
def test_effective_defaults(cls: type) -> None:
    optimizer = cls(parameters(), 0.5)
    assert optimizer.loss_scaling == 1.0
    assert optimizer.accum_type is torch.float32
    base = None if cls is optim.LAMB else cls.__mro__[2]
    if base is not None:
        torchs = base(parameters(), 0.5).defaults
        assert torchs.items() <= optimizer.defaults.items()
    assert isinstance(optimizer, base or torch.optim.Optimizer)


def test_particular_defaults() -> None:
    assert optim.SGD(parameters(), 0.1).use_combined_accum is False
    assert optim.SGD(parameters(), 0.1).max_grad_norm == optim.Adam(parameters()).max_grad_norm == math.inf
    assert optim.SGD(parameters(), 0.1).param_groups[0]["velocity_scaling"] == 1.0
    assert optim.AdamW(parameters()).bias_correction is True
    lamb = optim.LAMB(parameters())
    group = {k: v for k, v in lamb.param_groups[0].items() if k in ("lr", "betas", "eps", "weight_decay")}
    assert group == {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2}
    assert lamb.param_groups[0]["max_weight_norm"] == 65500
    added = optim.SGD(parameters()[:1], 0.1, momentum=0.9, use_combined_accum=True, velocity_scaling=4.0)
    added.add_param_group({"params": parameters()[1:]})
    assert added.param_groups[1]["velocity_scaling"] == 4.0


def test_what_is_given_is_variable() -> None:
    attributes = optim.AdamW(parameters(), lr=0.1, betas=(0.9, 0.99)).variable_attrs
    constant = {name: attributes.isConstant(name) for name in ("lr", "betas", "eps", "weight_decay", "loss_scaling")}
    assert constant == {"lr": False, "betas": False, "eps": True, "weight_decay": True, "loss_scaling": True}
    attributes.markAsVariable("eps")
    attributes.markAsConstant("lr")
    assert not attributes.isConstant("eps")
    assert attributes.isConstant("lr")
    with pytest.raises(AssertionError, match="momentum"):
        attributes.markAsVariable("momentum")
    assert optim.Adam(parameters()).variable_attrs.isConstant("lr")


@pytest.mark.parametrize("bad", [torch.bfloat16, torch.float64, "float16"])
def test_accumulator_types(bad: Any) -> None:
    for cls, name in ((optim.SGD, "velocity_accum_type"), (optim.LAMB, "first_order_momentum_accum_type")):
        for argument in ("accum_type", name):
            with pytest.raises(AssertionError, match=argument):
                cls(parameters(), 0.1, **{argument: bad})


def test_refused_settings() -> None:
    for cls in (optim.Adam, optim.AdamW):
        with pytest.raises(ValueError, match="amsgrad"):
            cls(parameters(), amsgrad=True)
    with pytest.raises(ValueError, match="amsgrad"):
        wrapped(torch.optim.Adam(parameters(), amsgrad=True))
    with pytest.raises(ValueError, match="maximize"):
        wrapped(optim.SGD(parameters(), 0.1, maximize=True))
    with pytest.raises(AssertionError, match="Adagrad"):
        wrapped(torch.optim.Adagrad(parameters()))
    with pytest.raises(Error, match=r"model\.parameters\(\)"):
        DeviceOptimizer(optim.SGD(parameters(), 0.1), {}, {})
    with pytest.warns(UserWarning, match="use_combined_accum"):
        optim.SGD(parameters(), 0.1, momentum=0.9, velocity_scaling=2.0)


@pytest.mark.parametrize(
    ("torchs", "ours"),
    [
        (torch.optim.AdamW(parameters(), lr=0.1), optim.AdamW(parameters(), lr=0.1)),
        (torch.optim.Adam(parameters(), lr=0.1, weight_decay=0.1), optim.Adam(parameters(), 0.1, weight_decay=0.1)),
        (
            torch.optim.Adam(parameters(), lr=0.1, weight_decay=0.1, decoupled_weight_decay=True),
            optim.AdamW(parameters(), 0.1, weight_decay=0.1),
        ),
        (torch.optim.SGD(parameters(), lr=0.1, momentum=0.9), optim.SGD(parameters(), lr=0.1, momentum=0.9)),
        (torch.optim.RMSprop(parameters(), lr=0.1), optim.RMSprop(parameters(), lr=0.1)),
    ],
)
def test_torchs_own_classes(torchs: torch.optim.Optimizer, ours: torch.optim.Optimizer) -> None:
    """They train as their namesakes; AdamW, which derives from Adam in torch, does not become Adam."""
    devices = wrapped(torchs), wrapped(ours)
    for device in devices:
        for step in range(3):
            gradients = {"0": torch.full((3, 2), 1.0 + step), "1": torch.full((4,), -1.0)}
            device.step(gradients, loss_scale=1.0, divisor=1, running=False)
    for name, weight in devices[0]._weights.items():
        assert torch.equal(weight, devices[1]._weights[name])


def test_state_dict() -> None:
    optimizer = optim.Adam(parameters(), lr=0.1, weight_decay=0.5, loss_scaling=8.0)
    assert optimizer.state_dict()["ipu_state"] is optimizer.state_dict()["ipu_param"] is None
    optimizer._device = wrapped(optimizer)
    state = optimizer.state_dict()
    assert set(state) == {"state", "param_groups", "ipu_state", "ipu_param"}
    assert set(state["ipu_state"]) == {f"{s}___{n}" for s in ("Accl1", "Accl2", "Step") for n in "01"}
    values = {key: value.item() for key, value in state["ipu_param"].items()}
    assert values["lossScaling_FLOAT"] == 8.0
    assert values["learningRate___specific___1"] == pytest.approx(0.1)
    assert values["weightDecay___specific___0"] == 0.5
    plain = wrapped(optim.SGD(parameters(), 0.5, dampening=0.5, weight_decay=0.5, loss_scaling=4.0))
    values = {key: value.item() for key, value in plain.parameters_state().items()}
    assert values["scaledLearningRate0___specific___0"] == 0.0625
    assert values["weightDecayScaleFactor0___specific___1"] == 0.875


def test_load_state_dict() -> None:
    first = optim.Adam(parameters(), lr=0.1)
    first._device = wrapped(first)
    first._device.step({"0": torch.ones(3, 2)}, loss_scale=1.0, divisor=1, running=False)
    saved = pickle.loads(pickle.dumps(first.state_dict()))
    before, after = optim.Adam(parameters(), lr=0.7), optim.Adam(parameters(), lr=0.7)
    before.load_state_dict(saved)
    assert before.param_groups[0]["lr"] == 0.1
    assert torch.equal(before.state_dict()["ipu_state"]["Accl1___0"], saved["ipu_state"]["Accl1___0"])
    after._device = wrapped(after)
    after.load_state_dict(saved)
    for device in (wrapped(before), after._device):
        assert all(torch.equal(value, saved["ipu_state"][key]) for key, value in device.state().items())
    third = optim.Adam(parameters(), lr=0.7)
    with pytest.raises(RuntimeError, match="ipu_state"):
        third.load_state_dict(torch.optim.Adam(parameters(), lr=0.1).state_dict())
    assert third.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("cls", [*CLASSES, torch.optim.SGD])
def test_schedulers(cls: type) -> None:
    """Stepped without a step of the optimizer, as programs do, and without a warning (warnings are errors here)."""
    optimizer = cls(parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    if cls is not torch.optim.SGD:
        scheduler.step()  # before there is a device
        optimizer.param_groups[0]["lr"], scheduler.last_epoch = 1.0, 0
    device = wrapped(optimizer)
    for _ in range(3):
        device.snapshot(optimizer)
        scheduler.step()
    device.snapshot(optimizer)
    assert device._hyper.groups[0].lr == 0.125
    assert optimizer.param_groups[0]["initial_lr"] == 1.0


@pytest.mark.parametrize("cls", CLASSES)
def test_copies_keep_the_settings(cls: type) -> None:
    optimizer = cls(parameters(), lr=0.5, loss_scaling=16.0, accum_type=torch.float16)
    optimizer._device = wrapped(optimizer)
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert (twin.loss_scaling, twin.accum_type, twin._device) == (16.0, torch.float16, None)
        assert not twin.variable_attrs.isConstant("lr")
        wrapped(twin)


@pytest.mark.parametrize(
    ("cls", "arguments"),
    [
        (optim.SGD, {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True}),
        (optim.Adam, {"weight_decay": 0.1}),
        (optim.AdamW, {"weight_decay": 0.1}),
        (optim.LAMB, {"max_weight_norm": 1.0}),
        (optim.RMSprop, {"momentum": 0.9, "weight_decay": 0.1}),
        (optim.RMSprop, {"momentum": 0.9, "use_tf_variant": True, "centered": True}),
    ],
)
def test_steps_on_the_host(cls: type, arguments: dict[str, Any]) -> None:
    """`step()` works without a wrapped model and agrees with the device; a closure's value comes back."""
    optimizer = cls(parameters(), lr=0.1, **arguments)
    device = wrapped(optimizer)
    tensors = optimizer.param_groups[0]["params"]

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = (tensors[0] ** 2).sum() + tensors[1].sin().sum()
        value.backward()
        return value

    for _ in range(4):
        expected = float((tensors[0].detach() ** 2).sum() + tensors[1].detach().sin().sum())
        assert optimizer.step(loss).item() == pytest.approx(expected)
        gradients = {str(i): p.grad.clone() for i, p in enumerate(tensors)}
        device.step(gradients, loss_scale=1.0, divisor=1, running=False)
    for i, parameter in enumerate(tensors):
        torch.testing.assert_close(parameter.detach(), device._weights[str(i)], rtol=2e-6, atol=2e-7)


def test_no_warning_on_import_or_use() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for cls in CLASSES:
            repr(cls(parameters(), lr=0.1))
