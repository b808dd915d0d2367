"""The snapshot of an optimizer's hyper-parameters that the device trains with."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass, replace
from typing import Any, Dict, FrozenSet, List, Mapping, Optional, Tuple

import torch

from poptorch_host.errors import Error

# Values that may differ between parameter groups; all but `max_weight_norm` have torch's names.
GROUP_VALUES: Dict[str, Tuple[str, ...]] = {
    "sgd": ("lr", "momentum", "dampening", "weight_decay", "velocity_scaling"),
    "adam": ("lr", "betas", "eps", "weight_decay"),
    "adamw": ("lr", "betas", "eps", "weight_decay"),
    "lamb": ("lr", "betas", "eps", "weight_decay", "max_weight_norm"),
    "rmsprop": ("lr", "alpha", "eps", "weight_decay", "momentum"),
}
_GROUP_FLAGS: Dict[str, Tuple[str, ...]] = {"sgd": ("nesterov",), "rmsprop": ("centered",)}
_TORCH_FAMILIES: Dict[type, str] = {
    torch.optim.SGD: "sgd",
    torch.optim.Adam: "adam",
    torch.optim.AdamW: "adamw",
    torch.optim.RMSprop: "rmsprop",
}
LARGEST_WEIGHT_NORM = 65500.0  # what PopTorch puts in place of max_weight_norm=None: the norm is kept in half there


@dataclass(frozen=True)
class Group:
    """One parameter group: the model's names of its parameters and its values, fields of other families unused."""

    names: Tuple[str, ...] = ()
    lr: float = 0.0
    betas: Tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.0
    dampening: float = 0.0
    velocity_scaling: float = 1.0
    alpha: float = 0.99
    max_weight_norm: float = LARGEST_WEIGHT_NORM
    nesterov: bool = False
    centered: bool = False
    has_momentum: bool = False
    """Whether a velocity is kept: the momentum is not zero, or may change later."""
    constants: FrozenSet[str] = frozenset()


@dataclass(frozen=True)
class Hyperparameters:
    """Everything about an optimizer that the device's arithmetic depends on."""

    family: str
    groups: Tuple[Group, ...]
    loss_scaling: float = 1.0
    loss_scaling_constant: bool = True
    max_grad_norm: float = math.inf
    accum_type: torch.dtype = torch.float32
    first_type: torch.dtype = torch.float32
    second_type: torch.dtype = torch.float32
    use_combined_accum: bool = False
    bias_correction: bool = True
    use_tf_variant: bool = False


def family_of(optimizer: torch.optim.Optimizer) -> str:
    """Return which of PopART's optimizers runs this one.

    Raises AssertionError for a class that PopART doesn't have, ValueError for `amsgrad` and `maximize`.
    """
    family: Optional[str] = None
    for cls in type(optimizer).__mro__:  # in this order an AdamW is found before the Adam it derives from
        family = cls.__dict__.get("_family") or _TORCH_FAMILIES.get(cls)
        if family is not None:
            break
    assert family is not None, f"Unsupported optimizer type {type(optimizer).__name__}"
    for group in optimizer.param_groups:
        for unsupported in ("amsgrad", "maximize"):
            if group.get(unsupported):
                raise ValueError(f"{unsupported}=True is not supported; leave it out")
    if family == "adam" and optimizer.defaults.get("decoupled_weight_decay"):
        return "adamw"
    return family


def read(
    optimizer: torch.optim.Optimizer, names: Mapping[int, str], *, automatic_loss_scaling: bool = False
) -> Hyperparameters:
    """Take the snapshot.

    `names` gives the model's name of each parameter by its `id`; parameters of the optimizer that the model does not
    have are left out. With `automatic_loss_scaling` the loss scaling counts as variable.

    Raises what `family_of` raises, and Error if no parameter of the optimizer belongs to the model.
    """
    family = family_of(optimizer)
    groups = tuple(
        read_group(optimizer, group, family, tuple(names[id(p)] for p in group["params"] if id(p) in names))
        for group in optimizer.param_groups
    )
    if not any(group.names for group in groups):
        raise Error("The optimizer holds none of the model's parameters; build it from model.parameters()")
    variable = getattr(optimizer, "variable_attrs", None)
    first = "velocity_accum_type" if family == "sgd" else "first_order_momentum_accum_type"
    return Hyperparameters(
        family=family,
        groups=groups,
        loss_scaling=float(getattr(optimizer, "loss_scaling", 1.0)),
        loss_scaling_constant=not automatic_loss_scaling and (variable is None or variable.isConstant("loss_scaling")),
        max_grad_norm=float(getattr(optimizer, "max_grad_norm", math.inf)),
        accum_type=getattr(optimizer, "accum_type", torch.float32),
        first_type=getattr(optimizer, first, torch.float32),
        second_type=getattr(optimizer, "second_order_momentum_accum_type", torch.float32),
        use_combined_accum=bool(getattr(optimizer, "use_combined_accum", False)),
        bias_correction=family != "lamb" or bool(getattr(optimizer, "bias_correction", True)),
        use_tf_variant=bool(getattr(optimizer, "use_tf_variant", False)),
    )


def read_group(
    optimizer: torch.optim.Optimizer, group: Dict[str, Any], family: str, names: Tuple[str, ...] = ()
) -> Group:
    """Read one of the optimizer's `param_groups`."""
    values: Dict[str, Any] = {}
    for attribute in GROUP_VALUES[family]:
        value: Any = group.get(attribute, 1.0 if attribute == "velocity_scaling" else None)
        if attribute == "betas":
            values[attribute] = (float(value[0]), float(value[1]))
        elif value is None:  # only max_weight_norm can be
            values[attribute] = LARGEST_WEIGHT_NORM
        else:
            values[attribute] = float(value)
    constants = _constants(optimizer, values)
    values.update({flag: bool(group[flag]) for flag in _GROUP_FLAGS.get(family, ())})
    has_momentum = bool(values.get("momentum")) or ("momentum" in values and "momentum" not in constants)
    return Group(names=names, has_momentum=has_momentum, constants=constants, **values)


def _constants(optimizer: torch.optim.Optimizer, values: Dict[str, Any]) -> FrozenSet[str]:
    variable = getattr(optimizer, "variable_attrs", None)
    if variable is not None:
        return frozenset(name for name in values if variable.isConstant(name))
    torch_class = next(cls for cls in type(optimizer).__mro__ if cls in _TORCH_FAMILIES)
    defaults = inspect.signature(torch_class).parameters
    return frozenset(
        name for name in values if name != "lr" and name in defaults and values[name] == defaults[name].default
    )


def replacement(old: Hyperparameters, new: Hyperparameters) -> Hyperparameters:
    """Return `new` with what is constant and what keeps a velocity as compiled in `old`.

    Raises Error if `new` changes a constant, the kind of optimizer or the parameter groups.
    """
    for name in _COMPILED:
        _check_equal(name, getattr(old, name), getattr(new, name), "it cannot change after compilation")
    if old.loss_scaling_constant:
        _check_equal("loss_scaling", old.loss_scaling, new.loss_scaling, _REMEDY)
    if [group.names for group in old.groups] != [group.names for group in new.groups]:
        raise Error("The new optimizer's parameter groups differ from those that the model was compiled with")
    groups = []
    for before, after in zip(old.groups, new.groups):
        for attribute in sorted(before.constants):
            _check_equal(attribute, getattr(before, attribute), getattr(after, attribute), _REMEDY)
        for flag in _GROUP_FLAGS.get(old.family, ()):
            _check_equal(flag, getattr(before, flag), getattr(after, flag), "it cannot change after compilation")
        groups.append(replace(after, has_momentum=before.has_momentum, constants=before.constants))
    return replace(new, groups=tuple(groups), loss_scaling_constant=old.loss_scaling_constant)


_COMPILED = (
    "family",
    "max_grad_norm",
    "accum_type",
    "first_type",
    "second_type",
    "use_combined_accum",
    "bias_correction",
    "use_tf_variant",
)
_REMEDY = (
    "it was constant when the model was compiled. Give it to the optimizer's constructor or call "
    "variable_attrs.markAsVariable() before wrapping"
)


def _check_equal(name: str, old: Any, new: Any, why: str) -> None:
    if old != new:
        raise Error(f"The optimizer's {name} changed from {old} to {new}, but {why}")


def device_values(hyper: Hyperparameters) -> Dict[str, torch.Tensor]:
    """Return the values as PopTorch's `ipu_param` lists them: 0-d float32 tensors under PopART's names."""
    values = {"lossScaling_FLOAT": hyper.loss_scaling}
    for group in hyper.groups:
        entries = _entries(hyper, group)
        values.update({f"{key}___specific___{name}": value for name in group.names for key, value in entries})
    return {key: torch.tensor(value, dtype=torch.float32) for key, value in values.items()}


def _entries(hyper: Hyperparameters, group: Group) -> List[Tuple[str, float]]:
    if hyper.family == "sgd" and not group.has_momentum:
        rate = group.lr * (1.0 - group.dampening)
        return [
            ("scaledLearningRate0", rate / hyper.loss_scaling),
            ("weightDecayScaleFactor0", 1.0 - rate * group.weight_decay),
        ]
    entries = [("learningRate", group.lr), ("weightDecay", group.weight_decay)]
    if hyper.family == "sgd":
        return [*entries, ("momentum", group.momentum), ("dampening", group.dampening)]
    if hyper.family == "rmsprop":
        return [*entries, ("alpha", group.alpha), ("momentum", group.momentum), ("eps", group.eps)]
    entries += [("beta1", group.betas[0]), ("beta2", group.betas[1]), ("eps", group.eps)]
    return [*entries, ("maxWeightNorm", group.max_weight_norm)] if hyper.family == "lamb" else entries
