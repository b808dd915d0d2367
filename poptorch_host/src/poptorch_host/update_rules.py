"""What all update rules are made of: a group's tensors, the gradient scale, storage in half precision, the guard."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import Dict, Iterator, List, Mapping, Optional, Protocol, Tuple, Union

import torch
from torch import Tensor

from poptorch_host.hyperparameters import Group
from poptorch_host.precision import round_to_half

Tensors = Union[List[Tensor], Tuple[Tensor, ...]]


@dataclass(frozen=True)
class Scale:
    """What the gradients are still multiplied by: `loss_scale` (a 0-d tensor on the device, or a number) x `divisor`.

    `velocity_unit` is the loss scaling of the snapshot, which SGD keeps its velocity multiplied by.
    """

    loss_scale: Union[float, Tensor] = 1.0
    divisor: int = 1
    velocity_unit: float = 1.0

    @property
    def inverse(self) -> Union[float, Tensor]:
        """The factor that unscales a gradient."""
        return 1.0 / (self.loss_scale * self.divisor)

    def tensor(self, like: Tensor, unit: float = 1.0) -> Optional[Tensor]:
        """Return the scale in multiples of `unit` as the 0-d tensor that fused kernels take, None if it is 1."""
        scale = self.loss_scale / unit * self.divisor
        if isinstance(scale, Tensor):
            return scale.to(device=like.device, dtype=torch.float32)
        return None if scale == 1.0 else torch.full((), scale, device=like.device)


@dataclass
class Batch:
    """The parameters of one group that one call updates, in the order of `names`.

    `slots` maps the name of a state ("Accl1", "Accl2", "Accl3", "Step") to its tensors. `found_inf` is a 0-d tensor
    that is 1 to leave everything as it is and 0 otherwise, or None to update in any case.
    """

    group: Group
    names: List[str]
    weights: Tensors
    gradients: Tensors
    slots: Mapping[str, Tensors]
    scale: Scale
    found_inf: Optional[Tensor] = None

    def stored(self) -> Tensors:
        """Return all tensors that an update changes."""
        return [*self.weights, *(tensor for tensors in self.slots.values() for tensor in tensors)]

    def all_float32(self) -> bool:
        """Say whether no half-precision tensor takes part."""
        return all(tensor.dtype is torch.float32 for tensor in (*self.stored(), *self.gradients))


class Rule(Protocol):
    """How one kind of optimizer updates a batch, in the parts that limiting a norm over all batches needs apart."""

    def slots(self, group: Group, weight: Tensor) -> Dict[str, Tensor]:
        """Return the state of a weight that has not been updated yet."""

    def fused(self, batch: Batch) -> bool:
        """Update the batch with one of torch's fused kernels if one does this arithmetic; say whether one did."""

    def prepare(self, batch: Batch) -> Tensors:
        """Return the tensors that `max_grad_norm` limits, in their own types; they may be overwritten."""

    def apply(self, batch: Batch, updates: Tensors) -> None:
        """Update weights and state from what `prepare` returned, limited."""


class Rounding:
    """Float32 arithmetic on tensors that are stored in float16.

    Float32 tensors are worked on in place; float16 ones are widened and rounded when they are stored.
    """

    def __init__(self, stochastic: bool = False, generator: Optional[torch.Generator] = None) -> None:
        self.stochastic = stochastic
        self.generator = generator

    def load(self, tensors: Tensors) -> Tensors:
        """Return the tensors to compute with: themselves, or float32 copies of float16 ones."""
        return [t.float() if t.dtype is torch.float16 else t for t in tensors]

    def store(self, tensors: Tensors, values: Tensors) -> None:
        """Put what has been computed on loaded tensors back."""
        for tensor, value in zip(tensors, values):
            if tensor is not value:
                tensor.copy_(self._half(value) if tensor.dtype is torch.float16 else value)

    def narrow(self, values: Tensors, like: Tensors) -> Tensors:
        """Return the values in the types of `like`."""
        return [self._half(v) if t.dtype is torch.float16 else v for v, t in zip(values, like)]

    def _half(self, value: Tensor) -> Tensor:
        return round_to_half(value, self.stochastic, self.generator)


def unscaled(batch: Batch, rounding: Rounding, widen: bool = False) -> Tensors:
    """Return the true gradients, in their own types or in float32 (`widen`). Float32 gradients are overwritten."""
    gradients = rounding.load(batch.gradients)
    inverse = batch.scale.inverse
    if isinstance(inverse, Tensor) or inverse != 1.0:
        torch._foreach_mul_(gradients, inverse)
    return gradients if widen else rounding.narrow(gradients, batch.gradients)


def subtract(batch: Batch, updates: Tensors, factor: Union[float, Tensor], rounding: Rounding) -> None:
    """Do w -= factor * update and store the weights."""
    weights, updates = rounding.load(batch.weights), rounding.load(updates)
    if isinstance(factor, Tensor):
        torch._foreach_sub_(weights, torch._foreach_mul(updates, factor))
    else:
        torch._foreach_add_(weights, updates, alpha=-factor)
    rounding.store(batch.weights, weights)


def clip_factor(norms: Tensor, max_norm: float, half: bool) -> Tensor:
    """Return what the updates are multiplied by so that their global norm is at most `max_norm`, a 0-d tensor.

    `norms` holds the norm of each parameter's update. With `half` squares, sum, root and quotient are rounded to
    float16, to nearest so that all processes find the same; where IPUs saturate, so does this.
    """

    def rounded(x: Tensor) -> Tensor:
        return x.clamp(max=torch.finfo(torch.float16).max).half().float() if half else x

    norm = rounded(rounded(rounded(norms.square()).sum()).sqrt())
    return rounded(max_norm / norm.clamp(min=max_norm))


@contextmanager
def untouched_if(found_inf: Optional[Tensor], tensors: Tensors) -> Iterator[None]:
    """Undo what happens to `tensors` inside if `found_inf` is not zero, without asking the device for its value."""
    before = [] if found_inf is None else [tensor.clone() for tensor in tensors]
    yield
    if found_inf is None:
        return
    for tensor, old in zip(tensors, before):
        torch.where(found_inf != 0, old, tensor, out=tensor)
