"""SGD as PopART computes it: without a velocity, with one of its own, or with one that shares the gradient sum."""

from __future__ import annotations

import math
from typing import Dict, Union

import torch
from torch import Tensor

from poptorch_host.hyperparameters import Group, Hyperparameters
from poptorch_host.update_rules import Batch, Rounding, Tensors, subtract


class SGDRule:
    """Weights w, gradients g, momentum mu, dampening d, weight decay wd.

    * No velocity (momentum 0 and constant): w -= lr (1 - d) (g + wd w).
    * Separate: v = mu v + (1 - d) (g + wd w), w -= lr v, with v kept multiplied by the loss scaling and 0 at first.
      Nesterov: w -= lr (g + wd w + mu v), where g is the sum over the micro-batches even if their mean was asked for.
    * Combined: v += (1 - d) s g; w -= lr v / s; v = mu v + (1 - d) wd s w, with the velocity scaling s, in the
      weight's type. The last part belongs to the next step: new mu, d and wd come one step late there.
    """

    def __init__(self, hyper: Hyperparameters, rounding: Rounding) -> None:
        self.hyper = hyper
        self.rounding = rounding

    def slots(self, group: Group, weight: Tensor) -> Dict[str, Tensor]:
        """Return the velocity before the first step."""
        if not group.has_momentum:
            return {}
        if self.hyper.use_combined_accum:
            preapplied = (1 - group.dampening) * group.weight_decay * group.velocity_scaling
            velocity = weight.detach().float() * preapplied
            return {"Accl1": velocity.to(weight.dtype)}
        return {"Accl1": torch.zeros_like(weight, dtype=self.hyper.first_type)}

    def fused(self, batch: Batch) -> bool:
        """Take the step with torch's fused SGD where that is the same arithmetic."""
        group, scale = batch.group, batch.scale
        plain = not group.has_momentum
        velocity = group.momentum != 0 and not self.hyper.use_combined_accum
        summed = group.nesterov and scale.divisor != 1
        if not (plain or velocity) or summed or math.isfinite(self.hyper.max_grad_norm) or not batch.all_float32():
            return False
        unit = 1.0 if plain else scale.velocity_unit
        torch._fused_sgd_(
            batch.weights,
            batch.gradients,
            [] if plain else batch.slots["Accl1"],
            weight_decay=group.weight_decay * unit,
            momentum=0.0 if plain else group.momentum,
            lr=group.lr * (1 - group.dampening) if plain else group.lr / unit,
            dampening=0.0 if plain else group.dampening,
            nesterov=group.nesterov and not plain,
            maximize=False,
            is_first_step=False,  # the first step of torch's own SGD is not dampened, PopART's is
            grad_scale=scale.tensor(batch.weights[0], unit),
            found_inf=batch.found_inf,
        )
        return True

    def prepare(self, batch: Batch) -> Tensors:
        """Advance the velocity and return what the weights move by, or the untouched gradients without one."""
        if not batch.group.has_momentum:
            return batch.gradients
        moves = self._combined(batch) if self.hyper.use_combined_accum else self._separate(batch)
        limited = math.isfinite(self.hyper.max_grad_norm)  # and the velocity itself is not
        return [move.clone() for move in moves] if limited else moves

    def _separate(self, batch: Batch) -> Tensors:
        group, scale, unit = batch.group, batch.scale, batch.scale.velocity_unit
        weights = self.rounding.load(batch.weights)
        summed = torch._foreach_mul(self.rounding.load(batch.gradients), unit / scale.loss_scale)
        gradients = torch._foreach_add(
            torch._foreach_div(summed, scale.divisor), weights, alpha=group.weight_decay * unit
        )
        velocities = self.rounding.load(batch.slots["Accl1"])
        torch._foreach_mul_(velocities, group.momentum)
        torch._foreach_add_(velocities, gradients, alpha=1 - group.dampening)
        self.rounding.store(batch.slots["Accl1"], velocities)
        if not group.nesterov:
            return batch.slots["Accl1"]
        torch._foreach_add_(summed, weights, alpha=group.weight_decay * unit)
        torch._foreach_add_(summed, velocities, alpha=group.momentum)
        return summed

    def _combined(self, batch: Batch) -> Tensors:
        group, unit = batch.group, batch.group.velocity_scaling
        gradients = torch._foreach_mul(self.rounding.load(batch.gradients), batch.scale.inverse)
        velocities = self.rounding.load(batch.slots["Accl1"])
        torch._foreach_add_(velocities, gradients, alpha=(1 - group.dampening) * unit)
        self.rounding.store(batch.slots["Accl1"], velocities)
        if not group.nesterov:
            return batch.slots["Accl1"]
        weights = self.rounding.load(batch.weights)
        updates = torch._foreach_mul(torch._foreach_add(gradients, weights, alpha=group.weight_decay), unit)
        torch._foreach_add_(updates, velocities, alpha=group.momentum)
        return updates

    def apply(self, batch: Batch, updates: Tensors) -> None:
        """Move the weights and, in the combined form, begin the next step's velocity."""
        group = batch.group
        if not group.has_momentum:
            self._plain(batch, updates)
        elif not self.hyper.use_combined_accum:
            subtract(batch, updates, group.lr / batch.scale.velocity_unit, self.rounding)
        else:
            subtract(batch, updates, group.lr / group.velocity_scaling, self.rounding)
            velocities = self.rounding.load(batch.slots["Accl1"])
            torch._foreach_mul_(velocities, group.momentum)
            preapplied = (1 - group.dampening) * group.weight_decay * group.velocity_scaling
            torch._foreach_add_(velocities, self.rounding.load(batch.weights), alpha=preapplied)
            self.rounding.store(batch.slots["Accl1"], velocities)

    def _plain(self, batch: Batch, gradients: Tensors) -> None:
        rate: float = batch.group.lr * (1 - batch.group.dampening)
        factor: Union[float, Tensor] = rate * batch.scale.inverse
        weights = self.rounding.load(batch.weights)
        torch._foreach_mul_(weights, 1 - rate * batch.group.weight_decay)
        torch._foreach_sub_(weights, torch._foreach_mul(self.rounding.load(gradients), factor))
        self.rounding.store(batch.weights, weights)
