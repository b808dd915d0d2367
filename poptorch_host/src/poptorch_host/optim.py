"""PopTorch's optimizers.

Each is torch's optimizer of the same name with the settings that a device program needs besides: loss scaling, the
types of the gradient accumulators and of the moments, and which values may change after compilation. `step()` is
torch's and serves training without a device; a wrapped model is updated by `poptorch_host.updates`, where the
arithmetic of these settings is.

Arguments left at None take torch's default and become constants: a compiled program can't change them unless
`variable_attrs.markAsVariable(name)` says so before wrapping.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, Callable, Dict, Iterable, Optional, Tuple, Union

import torch
from torch import Tensor

from poptorch_host.hyperparameters import GROUP_VALUES, LARGEST_WEIGHT_NORM
from poptorch_host.updates import DeviceOptimizer, host_step
from poptorch_host.variable_attributes import VariableAttributes

Params = Union[Iterable[Tensor], Iterable[Dict[str, Any]]]
Dtype = Optional[torch.dtype]


class Optimizer(torch.optim.Optimizer):
    """What the five optimizers share.

    Attributes: `loss_scaling`, `accum_type` and the types of the moments, `variable_attrs`.
    """

    loss_scaling: float
    accum_type: torch.dtype
    variable_attrs: VariableAttributes
    _family: str
    _opt_called = True  # the device takes the steps: torch's schedulers must not wait for a call of step()
    _device: Optional[DeviceOptimizer] = None
    """Set when the model is wrapped."""
    _ipu_state: Optional[Dict[str, Tensor]] = None
    _ipu_param: Optional[Dict[str, Tensor]] = None

    def _set_up(self, given: Dict[str, Any], extras: Dict[str, Any]) -> None:
        """Set the attributes `extras` (name -> default) from the constructor's arguments `given`."""
        own = {name: given.get(name, default) for name, default in extras.items()}
        for name, value in own.items():
            if name.endswith("accum_type"):
                supported = (torch.float16, torch.float32)
                assert value in supported, f"{name} must be torch.float16 or torch.float32, not {value}"
        self._own = (*own, "variable_attrs", "_ipu_state", "_ipu_param", "_own")
        self.__dict__.update(own)
        self.variable_attrs = VariableAttributes(given, {"loss_scaling", *GROUP_VALUES[self._family]})

    def state_dict(self) -> Dict[str, Any]:
        """Return torch's `state` and `param_groups` with the device's `ipu_state` and `ipu_param`.

        The latter two are None before the model is wrapped, unless they have been loaded. Where optimizer state is
        dealt out to several processes, all of them must call this together.
        """
        state = super().state_dict()
        device = self._device
        state["ipu_state"] = self._ipu_state if device is None else device.state()
        state["ipu_param"] = self._ipu_param if device is None else device.parameters_state()
        return state

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        """Load what `state_dict` returned: into the wrapped model's optimizer, or once the model is wrapped.

        Raises RuntimeError without `ipu_state` and `ipu_param`; torch's part has been loaded by then.
        """
        super().load_state_dict(state_dict)
        if not {"ipu_state", "ipu_param"} <= state_dict.keys():
            raise RuntimeError(
                "The state has no ipu_state and ipu_param: it was not saved by a poptorch optimizer. Only torch's "
                "part of it has been loaded"
            )
        if self._device is None:
            self._ipu_state, self._ipu_param = state_dict["ipu_state"], state_dict["ipu_param"]
        elif state_dict["ipu_state"] is not None:
            self._device.load_state(state_dict["ipu_state"])

    def __getstate__(self) -> Dict[str, Any]:
        return {**super().__getstate__(), **{name: getattr(self, name) for name in self._own}}


def _given(arguments: Dict[str, Any]) -> Dict[str, Any]:
    """Return the arguments of a constructor that were given, from its `locals()`; ValueError for amsgrad."""
    if arguments.get("amsgrad"):
        raise ValueError("amsgrad=True is not supported; leave it out")
    return {k: v for k, v in arguments.items() if v is not None and k not in ("self", "params", "__class__")}


def _torch_part(given: Dict[str, Any], extras: Iterable[str]) -> Dict[str, Any]:
    return {name: value for name, value in given.items() if name not in extras}


class SGD(Optimizer, torch.optim.SGD):
    """Stochastic gradient descent with PopART's three forms on the device.

    Without `momentum` no velocity is kept, and `dampening` still scales the step. With it, the velocity is a tensor of
    `velocity_accum_type`, or shares one with the gradient sum (`use_combined_accum`); there new values of
    momentum and weight decay act one step late. `max_grad_norm` limits the norm over all parameters: of the velocity
    with momentum, else of the gradients while they are still multiplied by the loss scaling.
    """

    use_combined_accum: bool
    velocity_accum_type: torch.dtype
    max_grad_norm: float
    _family = "sgd"

    def __init__(
        self,
        params: Params,
        lr: float,
        momentum: Optional[float] = None,
        dampening: Optional[float] = None,
        weight_decay: Optional[float] = None,
        nesterov: Optional[bool] = None,
        maximize: Optional[bool] = None,
        foreach: Optional[bool] = None,
        differentiable: Optional[bool] = None,
        loss_scaling: Optional[float] = None,
        velocity_scaling: Optional[float] = None,
        use_combined_accum: Optional[bool] = None,
        accum_type: Dtype = None,
        velocity_accum_type: Dtype = None,
        max_grad_norm: Optional[float] = None,
    ) -> None:
        given = _given(locals())
        extras = {
            "loss_scaling": 1.0,
            "use_combined_accum": False,
            "accum_type": torch.float32,
            "velocity_accum_type": torch.float32,
            "max_grad_norm": math.inf,
        }
        torch.optim.SGD.__init__(self, params, **_torch_part(given, {*extras, "velocity_scaling"}))
        self._set_up(given, extras)
        if velocity_scaling is not None and not use_combined_accum:
            warnings.warn("velocity_scaling only matters with use_combined_accum=True", stacklevel=2)
        self.defaults["velocity_scaling"] = 1.0 if velocity_scaling is None else velocity_scaling
        for group in self.param_groups:
            group.setdefault("velocity_scaling", self.defaults["velocity_scaling"])


_MOMENTS = {
    "loss_scaling": 1.0,
    "accum_type": torch.float32,
    "first_order_momentum_accum_type": torch.float32,
    "second_order_momentum_accum_type": torch.float32,
}


class Adam(Optimizer, torch.optim.Adam):
    """Adam; `weight_decay` is added to the gradient (L2), as in torch. `amsgrad` raises ValueError."""

    max_grad_norm: float
    _family = "adam"

    def __init__(
        self,
        params: Params,
        lr: Optional[float] = None,
        betas: Optional[Tuple[float, float]] = None,
        eps: Optional[float] = None,
        weight_decay: Optional[float] = None,
        amsgrad: Optional[bool] = None,
        foreach: Optional[bool] = None,
        maximize: Optional[bool] = None,
        capturable: Optional[bool] = None,
        differentiable: Optional[bool] = None,
        fused: Optional[bool] = None,
        loss_scaling: Optional[float] = None,
        accum_type: Dtype = None,
        first_order_momentum_accum_type: Dtype = None,
        second_order_momentum_accum_type: Dtype = None,
        max_grad_norm: Optional[float] = None,
    ) -> None:
        given = _given(locals())
        extras = {**_MOMENTS, "max_grad_norm": math.inf}
        torch.optim.Adam.__init__(self, params, **_torch_part(given, extras))
        self._set_up(given, extras)


class AdamW(Optimizer, torch.optim.AdamW):
    """Adam with decoupled weight decay.

    `bias_correction` is kept as an attribute and has no effect: PopART always corrects. `amsgrad` raises ValueError.
    """

    bias_correction: bool
    max_grad_norm: float
    _family = "adamw"

    def __init__(
        self,
        params: Params,
        lr: Optional[float] = None,
        betas: Optional[Tuple[float, float]] = None,
        eps: Optional[float] = None,
        weight_decay: Optional[float] = None,
        amsgrad: Optional[bool] = None,
        maximize: Optional[bool] = None,
        foreach: Optional[bool] = None,
        capturable: Optional[bool] = None,
        differentiable: Optional[bool] = None,
        fused: Optional[bool] = None,
        loss_scaling: Optional[float] = None,
        bias_correction: Optional[bool] = None,
        accum_type: Dtype = None,
        first_order_momentum_accum_type: Dtype = None,
        second_order_momentum_accum_type: Dtype = None,
        max_grad_norm: Optional[float] = None,
    ) -> None:
        given = _given(locals())
        extras = {**_MOMENTS, "bias_correction": True, "max_grad_norm": math.inf}
        torch.optim.AdamW.__init__(self, params, **_torch_part(given, extras))
        self._set_up(given, extras)


class LAMB(Optimizer):
    """Layer-wise adaptive moments (You et al. 2020, https://arxiv.org/abs/1904.00962) with decoupled weight decay.

    The step of a tensor is scaled by min(weight norm, `max_weight_norm`) / update norm; a group with
    `max_weight_norm` 0 takes plain AdamW steps. None means 65500.
    """

    bias_correction: bool
    _family = "lamb"

    def __init__(
        self,
        params: Params,
        lr: Optional[float] = None,
        betas: Optional[Tuple[float, float]] = None,
        eps: Optional[float] = None,
        weight_decay: Optional[float] = None,
        bias_correction: Optional[bool] = None,
        loss_scaling: Optional[float] = None,
        max_weight_norm: Optional[float] = None,
        accum_type: Dtype = None,
        first_order_momentum_accum_type: Dtype = None,
        second_order_momentum_accum_type: Dtype = None,
    ) -> None:
        given = _given(locals())
        extras = {**_MOMENTS, "bias_correction": True}
        defaults: Dict[str, Any] = {
            "lr": 1e-3,
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "weight_decay": 1e-2,
            "max_weight_norm": LARGEST_WEIGHT_NORM,
        }
        torch.optim.Optimizer.__init__(self, params, {**defaults, **_torch_part(given, extras)})
        self._set_up(given, extras)

    @torch.no_grad()
    def step(self, closure: Optional[Callable[[], float]] = None) -> Optional[float]:  # type: ignore[override]
        """Update the parameters on the host from their `.grad`; return what `closure` returned."""
        return host_step(self, closure)


class RMSprop(Optimizer, torch.optim.RMSprop):
    """RMSprop; with `use_tf_variant` the square average starts at 1 and `eps` is under the root."""

    use_tf_variant: bool
    _family = "rmsprop"

    def __init__(
        self,
        params: Params,
        lr: Optional[float] = None,
        alpha: Optional[float] = None,
        eps: Optional[float] = None,
        weight_decay: Optional[float] = None,
        momentum: Optional[float] = None,
        centered: Optional[bool] = None,
        foreach: Optional[bool] = None,
        maximize: Optional[bool] = None,
        differentiable: Optional[bool] = None,
        loss_scaling: Optional[float] = None,
        accum_type: Dtype = None,
        first_order_momentum_accum_type: Dtype = None,
        second_order_momentum_accum_type: Dtype = None,
        use_tf_variant: Optional[bool] = None,
    ) -> None:
        given = _given(locals())
        extras = {**_MOMENTS, "use_tf_variant": False}
        torch.optim.RMSprop.__init__(self, params, **_torch_part(given, extras))
        self._set_up(given, extras)

    @torch.no_grad()
    def step(self, closure: Optional[Callable[[], float]] = None) -> Optional[float]:  # type: ignore[override]
        """Update the parameters on the host from their `.grad`; return what `closure` returned."""
        return host_step(self, closure) if self.use_tf_variant else super().step(closure)
