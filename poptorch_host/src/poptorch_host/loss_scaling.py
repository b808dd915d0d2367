"""Automatic loss scaling as PopART does it: steered by the sizes of float16 gradients between operators.

Tracked are the gradients of intermediate tensors, where the program computes in float16 ("exact") or in bfloat16
standing for it ("fast", with the same edge of 0.125 · 65504 = 8188, so that both settle at the same scale). The
gradient of a tensor is made by the operators that consume the tensor, hence
* gradientTensorTrackingMethod 0: gradients of tensors that go into operators which change values and read no weight;
* gradientTensorTrackingMethod 1: gradients of tensors that go into matrix products and convolutions.
"""

from __future__ import annotations

from typing import Any, Callable, Mapping

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from poptorch_host.distributed import add_up
from poptorch_host.errors import Error
from poptorch_host.forward import ForwardMode
from poptorch_host.options import Options

_PREFIX = "automaticLossScalingSettings."
_HALF_MAX = 65504.0
FACTOR = "lossScaleUpdateFactor"  # PopART's name
_COUNTS = "lossScaleCounts"

_PRODUCTS = frozenset(
    {
        *(F.linear, F.conv1d, F.conv2d, F.conv3d, F.bilinear, F.scaled_dot_product_attention),
        *(torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm, torch.einsum),
        *(Tensor.matmul, Tensor.mm, Tensor.bmm, Tensor.addmm, Tensor.baddbmm, Tensor.__matmul__),
    }
)
_names = (
    "view view_as reshape reshape_as transpose permute expand expand_as unbind chunk split flatten unflatten squeeze "
    "unsqueeze contiguous clone detach narrow select movedim swapaxes tile repeat roll flip to half float bfloat16 "
    "type size dim numel backward register_hook retain_grad __getitem__ __get__ __set__ __repr__ cat stack t T mT"
)
_MOVES_DATA = frozenset(_names.split())  # operators that change no values


class LossScale:
    """The factor on top of the optimizer's `loss_scaling`, and the counts it follows.

    `factor` starts at 1. Once per `update_period` optimizer steps it is halved if more than a share
    `threshold` of the gradient elements counted since lies above `edge`, else doubled.
    """

    def __init__(self, options: Options, device: torch.device) -> None:
        settings = {
            name[len(_PREFIX) :]: value for name, value in options._Popart.options.items() if name.startswith(_PREFIX)
        }
        self.enabled = bool(settings.get("enabled", False))
        self.edge = float(settings.get("binEdgeLocation", 0.125)) * _HALF_MAX
        self._edges = {dtype: _round_down(self.edge, dtype) for dtype in (torch.float16, torch.bfloat16)}
        self.threshold = float(settings.get("thresholdUpperCountProportion", 1e-7))
        self.update_period = int(settings.get("updatePeriod", 1))
        self.method = int(settings.get("gradientTensorTrackingMethod", 0))
        self.factor = torch.ones((), device=device)
        self.group: dist.ProcessGroup | None = None
        self._steps = 0  # since the factor was last reconsidered
        self._counts = torch.zeros(2, dtype=torch.int64, device=device)  # elements above the edge, others

    def count(self, gradient: Tensor) -> None:
        """Count the elements of one gradient tensor."""
        upper = (gradient.detach().abs() > self._edges[gradient.dtype]).sum()
        self._counts[0] += upper
        self._counts[1] += gradient.numel() - upper

    def scale(self, loss_scaling: float) -> float | Tensor:
        """Return what the loss is multiplied with: a tensor where the factor is automatic."""
        return loss_scaling * self.factor if self.enabled else loss_scaling

    def update(self, skipped: Tensor | None = None) -> None:
        """Note an optimizer step, and change the factor where the period is over and `skipped` isn't set."""
        if not self.enabled:
            return
        self._steps += 1
        if self._steps < self.update_period:
            return
        self._steps = 0
        add_up([self._counts], self.group)
        upper, lower = self._counts.double()
        large = upper > lower * (self.threshold / (1 - self.threshold))
        factor = torch.where(large, self.factor * 0.5, self.factor * 2.0)
        self.factor = factor if skipped is None else torch.where(skipped, self.factor, factor)
        self._counts.zero_()

    def state(self) -> dict[str, Tensor]:
        """Return copies of the factor, and of what has been counted of a longer update period, on the CPU."""
        if not self.enabled:
            return {}
        state = {FACTOR: self.factor.to("cpu", copy=True)}
        if self.update_period > 1:
            state[_COUNTS] = torch.tensor([self._steps, *self._counts.tolist()])
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned, as far as it is there."""
        if FACTOR in state:
            self.factor.copy_(state[FACTOR])
        if _COUNTS in state:
            self._steps = int(state[_COUNTS][0])
            self._counts.copy_(state[_COUNTS][1:])

    def check(self, tracked: int, pipelined: bool, accumulation: int) -> None:
        """Raise Error where PopTorch refuses automatic loss scaling at compile time."""
        if not self.enabled:
            return
        if not tracked:
            raise Error(
                "Automatic loss scaling found no float16 gradients to track: use model.half(), or switch it off"
            )
        if pipelined and accumulation == 1:
            raise Error("Automatic loss scaling of a pipelined model needs gradient accumulation above 1")


class TrackingMode(ForwardMode):
    """A forward mode that has the gradients counted which automatic loss scaling tracks."""

    def __init__(self, device: torch.device, exact: bool, loss_scale: LossScale) -> None:
        super().__init__(device, exact)
        self.tracked = 0  # tensors so far
        self._loss_scale = loss_scale
        self._dtype = torch.float16 if exact else torch.bfloat16

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self._tracks(func, args):
            for tensor in _tensors(args):
                self._track(tensor)
        return super().__torch_function__(func, types, args, kwargs)

    def _tracks(self, func: Callable[..., Any], args: tuple[Any, ...]) -> bool:
        if self._loss_scale.method == 1:
            return func in _PRODUCTS
        if getattr(func, "__name__", "") in _MOVES_DATA:
            return False
        return not any(isinstance(tensor, nn.Parameter) for tensor in _tensors(args))

    def _track(self, tensor: Tensor) -> None:
        counted = getattr(tensor, "_counted", False)
        if tensor.dtype == self._dtype and tensor.grad_fn is not None and not counted:
            tensor._counted = True  # type: ignore[attr-defined]
            tensor.register_hook(self._loss_scale.count)
            self.tracked += 1


def _round_down(value: float, dtype: torch.dtype) -> float:
    """Return the largest number of `dtype` up to a positive `value`: comparisons convert it to that type anyway."""
    rounded = torch.tensor(value, dtype=dtype)
    return (rounded if rounded.item() <= value else rounded.nextafter(torch.zeros_like(rounded))).item()


def _tensors(args: Any) -> list[Tensor]:
    """Return the tensors among positional arguments, one level deep in lists and tuples."""
    found = []
    for arg in args:
        found += [a for a in arg if isinstance(a, Tensor)] if isinstance(arg, (list, tuple)) else []
        if isinstance(arg, Tensor):
            found.append(arg)
    return found
