"""Snapshots of hyper-parameters, skipped updates and the state of the device's optimizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import poptorch_host.optim as optim
from poptorch_host.errors import Error
from poptorch_host.updates import DeviceOptimizer

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
MOMENTUM: dict[str, Any] = {"momentum": 0.9, "weight_decay": 0.1}
OPTIMIZERS: dict[str, tuple[type, dict[str, Any]]] = {
    "sgd0": (optim.SGD, {"weight_decay": 0.1}),
    "sgd": (optim.SGD, MOMENTUM),
    "nesterov": (optim.SGD, {**MOMENTUM, "nesterov": True}),
    "combined": (optim.SGD, {**MOMENTUM, "use_combined_accum": True}),
    "sgd, limited": (optim.SGD, {**MOMENTUM, "max_grad_norm": 0.5}),
    "adam": (optim.Adam, {"weight_decay": 0.1}),
    "adamw": (optim.AdamW, {}),
    "adamw, limited": (optim.AdamW, {"max_grad_norm": 0.5}),
    "lamb": (optim.LAMB, {}),
    "rmsprop": (optim.RMSprop, {"momentum": 0.9, "centered": True, "use_tf_variant": True}),
    "torch sgd": (torch.optim.SGD, MOMENTUM),
    "torch adamw": (torch.optim.AdamW, {}),
}


class Program:
    """Two parameters, "w" (4, 3) and "b" (5,), with an optimizer and its device twin."""

    def __init__(self, kind: str, device: str = "cpu", state: dict[str, Any] | None = None, **extra: Any) -> None:
        cls, arguments = OPTIMIZERS[kind]
        torch.manual_seed(0)
        self.parameters = [torch.nn.Parameter(torch.randn(4, 3)), torch.nn.Parameter(torch.randn(5))]
        self.optimizer = cls(self.parameters, **{"lr": 0.1, **arguments, **extra})
        if state is not None:
            self.optimizer.load_state_dict(state)
        self.wrap(device)

    def wrap(self, device: str = "cpu", **arguments: Any) -> None:
        self.weights = {n: p.detach().clone().to(device) for n, p in zip("wb", self.parameters)}
        self.names = {id(p): n for n, p in zip("wb", self.parameters)}
        self.device = DeviceOptimizer(self.optimizer, self.weights, self.names, **arguments)

    def step(self, step: int, loss_scale: float | Tensor = 1.0, divisor: int = 1, **arguments: Any) -> None:
        random = torch.Generator().manual_seed(step)
        scale = float(loss_scale) * divisor
        gradients = {n: (torch.randn(w.shape, generator=random) * scale) for n, w in self.weights.items()}
        gradients = {n: g.to(self.weights[n].device) for n, g in gradients.items()}
        self.device.step(gradients, loss_scale=loss_scale, divisor=divisor, running=False, **arguments)

    def everything(self) -> dict[str, Tensor]:
        return {**{n: w.detach().cpu().clone() for n, w in self.weights.items()}, **self.device.state()}


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_found_inf(kind: str, waits: bool, device: str) -> None:
    """A set flag changes no bit, with and without looking at it on the host; a clear one changes nothing else."""
    program, undisturbed = Program(kind, device), Program(kind, device)
    program.device._waits_for_device = waits or device == "cuda"
    for step in range(3):
        program.step(step, found_inf=torch.zeros((), device=device))
        undisturbed.step(step)
    assert_same(program.everything(), undisturbed.everything())
    before = program.everything()
    for flag, bad in ((1.0, torch.inf), (3.0, torch.nan)):
        gradients = {n: torch.full_like(w, bad) for n, w in program.weights.items()}
        found = torch.tensor(flag, device=device)
        program.device.step(gradients, loss_scale=1.0, divisor=1, running=False, found_inf=found)
        assert_same(program.everything(), before)
    program.step(7, found_inf=torch.zeros((), device=device))
    undisturbed.step(7)
    assert_same(program.everything(), undisturbed.everything())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_resume_is_exact(kind: str, device: str) -> None:
    """Three steps, a saved state, three steps: bit for bit six steps."""
    whole, first = Program(kind, device), Program(kind, device)
    for step in range(6):
        whole.step(step)
    for step in range(3):
        first.step(step)
    saved = first.device.state()
    resumed = Program(kind, device)
    resumed.step(11)
    for name, weight in resumed.weights.items():
        weight.copy_(first.weights[name])
    resumed.device.load_state(saved)
    first.step(12)  # the saved state is a copy
    for step in range(3, 6):
        resumed.step(step)
    assert_same(resumed.everything(), whole.everything())


def test_state_names() -> None:
    assert set(Program("adamw").device.state()) == {f"{s}___{n}" for s in ("Accl1", "Accl2", "Step") for n in "wb"}
    assert set(Program("sgd").device.state()) == {"Accl1___w", "Accl1___b"}
    assert Program("sgd0").device.state() == {}
    program = Program("adamw")
    program.step(0)
    program.step(1)
    assert program.device.state()["Step___w"] == 2.0


def test_bad_states_are_refused_whole() -> None:
    program = Program("adamw")
    program.step(0)
    before = program.everything()
    good = {key: torch.ones_like(value) for key, value in program.device.state().items()}
    program.device.load_state({**good, "Master___w": torch.ones(4, 3), "lossScaleUpdateFactor": torch.ones(())})
    program.device.load_state(before)
    for bad, message in (
        ({key: value for key, value in good.items() if key != "Step___b"}, "holds no Step___b"),
        ({**good, "Accl2___b": torch.ones(6)}, r"Accl2___b is \(6,\).*not \(5,\)"),
        ({**good, "Accl1___gone": torch.ones(6)}, "holds Accl1___gone"),
        ({**good, "Accl3___w": torch.ones(6)}, "holds Accl3___w"),
    ):
        with pytest.raises(Error, match=message):
            program.device.load_state(bad)
        assert_same(program.everything(), before)


def test_loaded_state_waits_for_wrapping() -> None:
    first = Program("adamw")
    for step in range(3):
        first.step(step)
    first.optimizer._device = first.device
    resumed = Program("adamw", state=first.optimizer.state_dict())
    assert_same(resumed.device.state(), first.device.state())


def test_snapshot_not_live_values() -> None:
    live, still = Program("sgd"), Program("sgd")
    live.optimizer.param_groups[0]["lr"] = 5.0
    live.step(0)
    still.step(0)
    assert_same(live.everything(), still.everything())
    live.device.snapshot(live.optimizer)
    live.step(1)
    still.step(1)
    assert not torch.equal(live.weights["w"], still.weights["w"])


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("sgd", "dampening", 0.5),
        ("sgd0", "momentum", 0.9),
        ("adamw", "betas", (0.9, 0.99)),
        ("adamw", "eps", 1e-6),
        ("lamb", "max_weight_norm", 3.0),
        ("rmsprop", "alpha", 0.5),
        ("torch sgd", "dampening", 0.5),
        ("torch adamw", "eps", 1e-6),
    ],
)
def test_constants(kind: str, name: str, value: Any) -> None:
    """Values that were not given are compiled in; for torch's classes those that have their defaults."""
    program = Program(kind)
    program.optimizer.param_groups[0][name] = value
    with pytest.raises(Error, match=f"{name} changed.*constructor"):
        program.device.snapshot(program.optimizer)
    if isinstance(program.optimizer, optim.Optimizer):
        program.optimizer.variable_attrs.markAsVariable(name)
        program.wrap()
        program.optimizer.param_groups[0][name] = (0.5, 0.5) if name == "betas" else 0.25
        program.device.snapshot(program.optimizer)


def test_torch_classes_have_variable_rates_and_chosen_values() -> None:
    program = Program("torch sgd", lr=1e-3)  # torch's default: variable all the same
    program.optimizer.param_groups[0].update(lr=0.3, momentum=0.0, weight_decay=0.0)
    program.device.snapshot(program.optimizer)
    program.step(0)
    assert program.device.state()["Accl1___w"].abs().sum() > 0


def test_loss_scaling_constant_or_not() -> None:
    program = Program("adamw")
    program.optimizer.loss_scaling = 2.0
    with pytest.raises(Error, match=r"loss_scaling changed from 1\.0 to 2\.0"):
        program.device.snapshot(program.optimizer)
    program.wrap(automatic_loss_scaling=True)
    program.optimizer.loss_scaling = 4.0
    program.device.snapshot(program.optimizer)
    assert program.device.loss_scaling == 4.0
    given = Program("adamw", loss_scaling=2.0)
    given.optimizer.loss_scaling = 4.0
    given.device.snapshot(given.optimizer)
    assert given.device.loss_scaling == 4.0


def test_other_optimizers_are_refused() -> None:
    program = Program("sgd")
    other = Program("adamw")
    with pytest.raises(Error, match="none of the model's parameters"):
        program.device.snapshot(other.optimizer)
    with pytest.raises(Error, match="family changed from sgd to adamw"):
        program.device.snapshot(optim.AdamW(program.parameters))
    regrouped = optim.SGD([{"params": [p]} for p in program.parameters], lr=0.1, **MOMENTUM)
    with pytest.raises(Error, match="groups differ"):
        program.device.snapshot(regrouped)
    with pytest.raises(Error, match="nesterov changed from False to True"):
        program.device.snapshot(optim.SGD(program.parameters, lr=0.1, nesterov=True, **MOMENTUM))
    same = optim.SGD(program.parameters, lr=0.5, **MOMENTUM)
    program.device.snapshot(same)


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("as_tensor", [False, True])
def test_scale_and_divisor_cancel(kind: str, as_tensor: bool) -> None:
    """Powers of two change no bit; automatic loss scaling's factor does not reach the velocity either."""
    if kind in ("nesterov", "sgd, limited"):  # their gradients are used undivided or still scaled
        divisor = 1
    else:
        divisor = 8
    plain, scaled = Program(kind), Program(kind)
    for step in range(4):
        plain.step(step)
        factor = 2.0**step
        scaled.step(step, loss_scale=torch.tensor(factor) if as_tensor else factor, divisor=divisor)
    assert_same(scaled.everything(), plain.everything())


def test_new_loss_scaling_leaves_old_velocity() -> None:
    """v is kept times the loss scaling: after a change from 1 to 4 the old part counts a quarter."""
    program = Program("sgd", loss_scaling=1.0, weight_decay=0.0)
    start = program.weights["b"].clone()
    ones = {n: torch.ones_like(w) for n, w in program.weights.items()}
    program.device.step(dict(ones), loss_scale=1.0, divisor=1, running=False)
    program.optimizer.loss_scaling = 4.0
    program.device.snapshot(program.optimizer)
    fours = {n: 4 * g for n, g in ones.items()}
    program.device.step(fours, loss_scale=4.0, divisor=1, running=False)
    torch.testing.assert_close(start - program.weights["b"], torch.full((5,), 0.1 * (1 + (0.9 + 4) / 4)))


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_parameters_without_gradient_stay(kind: str) -> None:
    program = Program(kind)
    before = program.everything()
    gradient = torch.ones(3, 4).t()  # strides unlike the weight's
    program.device.step({"w": gradient}, loss_scale=1.0, divisor=1, running=False)
    after = program.everything()
    assert all(torch.equal(after[key], before[key]) for key in after if key.endswith("b"))
    assert not torch.equal(after["w"], before["w"])


def test_strides_of_gradients() -> None:
    program, contiguous = Program("adamw"), Program("adamw")
    gradient = torch.arange(12.0).reshape(3, 4).t()
    program.device.step({"w": gradient}, loss_scale=1.0, divisor=1, running=False)
    contiguous.device.step({"w": gradient.contiguous()}, loss_scale=1.0, divisor=1, running=False)
    assert_same(program.everything(), contiguous.everything())


def test_running_means_are_divided_already() -> None:
    with pytest.raises(AssertionError, match="divided already"):
        Program("sgd").device.step({}, loss_scale=1.0, divisor=2, running=True)


@pytest.mark.parametrize("given", [None, 65500.0])
def test_a_group_without_a_largest_weight_norm_has_that_of_half_precision(given: float | None) -> None:
    weight = torch.nn.Parameter(torch.full((2,), 1e6))
    optimizer = optim.LAMB([{"params": [weight], "max_weight_norm": given}], lr=1.0, weight_decay=0.0)
    device = DeviceOptimizer(optimizer, {"w": weight.detach()}, {id(weight): "w"})
    device.step({"w": torch.ones(2)}, loss_scale=1.0, divisor=1, running=False)
    assert device.parameters_state()["maxWeightNorm___specific___w"] == 65500
    torch.testing.assert_close(weight.detach(), torch.full((2,), 1e6 - 65500 / 2**0.5))
