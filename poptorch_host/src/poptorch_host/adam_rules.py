"""Adam, AdamW, LAMB and RMSprop as PopART computes them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Callable, Dict, List, Optional, Tuple

import torch
from torch import Tensor

from poptorch_host.hyperparameters import Group, Hyperparameters
from poptorch_host.update_rules import Batch, Rounding, Scale, Tensors, subtract, unscaled


class _MomentRule:
    """What the four share: unscaled gradients, with the weight decay added (L2) for the coupled ones."""

    def __init__(self, hyper: Hyperparameters, rounding: Rounding) -> None:
        self.hyper = hyper
        self.rounding = rounding
        self.coupled = hyper.family in ("adam", "rmsprop")
        float32_moments = hyper.first_type is hyper.second_type is torch.float32
        self.kernel: Optional[Callable[..., None]] = {
            "adam": torch._fused_adam_,
            "adamw": torch._fused_adamw_,
        }.get(hyper.family)
        self.widen = hyper.accum_type is torch.float16 and float32_moments

    def slots(self, group: Group, weight: Tensor) -> Dict[str, Tensor]:  # noqa: ARG002
        """Return the state of a weight before its first step."""
        return {
            "Accl1": torch.zeros_like(weight, dtype=self.hyper.first_type),
            "Accl2": torch.zeros_like(weight, dtype=self.hyper.second_type),
            "Step": torch.zeros((), device=weight.device),
        }

    def fused(self, batch: Batch) -> bool:
        """Take the step with torch's fused kernel where there is one and no gradient has to be limited."""
        if self.kernel is None or math.isfinite(self.hyper.max_grad_norm) or not batch.all_float32():
            return False
        self._launch(self.kernel, batch, batch.gradients, batch.group.weight_decay, batch.scale)
        return True

    def _launch(
        self,
        kernel: Callable[..., None],
        batch: Batch,
        gradients: Tensors,
        weight_decay: float,
        scale: Scale,
    ) -> None:
        steps, skipped = batch.slots["Step"], batch.found_inf
        torch._foreach_add_(steps, 1.0 if skipped is None else 1.0 - skipped)
        kernel(
            batch.weights,
            gradients,
            batch.slots["Accl1"],
            batch.slots["Accl2"],
            [],
            steps,
            lr=batch.group.lr,
            beta1=batch.group.betas[0],
            beta2=batch.group.betas[1],
            weight_decay=weight_decay,
            eps=batch.group.eps,
            amsgrad=False,
            maximize=False,
            grad_scale=scale.tensor(batch.weights[0]),
            found_inf=skipped,
        )

    def prepare(self, batch: Batch) -> Tensors:
        """Return the unscaled gradients, with the decay if it is coupled."""
        gradients = unscaled(batch, self.rounding, self.widen)
        if not self.coupled or batch.group.weight_decay == 0:
            return gradients
        weights = self.rounding.load(batch.weights)
        decayed = torch._foreach_add(self.rounding.load(gradients), weights, alpha=batch.group.weight_decay)
        return self.rounding.narrow(decayed, gradients)

    def _average(self, batch: Batch, slot: str, values: Tensors, decay: float) -> Tensors:
        """Do slot = decay slot + (1 - decay) value and return the slot as stored, for computing."""
        averages = self.rounding.load(batch.slots[slot])
        torch._foreach_lerp_(averages, values, 1 - decay)
        self.rounding.store(batch.slots[slot], averages)
        return self.rounding.load(batch.slots[slot])

    def _average_square(self, batch: Batch, slot: str, values: Tensors, decay: float) -> Tensors:
        averages = self.rounding.load(batch.slots[slot])
        torch._foreach_mul_(averages, decay)
        torch._foreach_addcmul_(averages, values, values, 1 - decay)
        self.rounding.store(batch.slots[slot], averages)
        return self.rounding.load(batch.slots[slot])


class AdamRule(_MomentRule):
    """m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g²; w -= lr (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + wd w).

    Adam adds wd w to g instead. The bias is always corrected, as PopART does even with `bias_correction=False`.
    """

    def apply(self, batch: Batch, updates: Tensors) -> None:
        """Take the step from gradients that are unscaled and limited."""
        if self.kernel is not None and batch.all_float32():
            weight_decay = 0.0 if self.coupled else batch.group.weight_decay
            self._launch(self.kernel, batch, updates, weight_decay, Scale())
        else:
            directions = self._direction(batch, self.rounding.load(updates))
            subtract(batch, directions, batch.group.lr, self.rounding)

    def _direction(self, batch: Batch, gradients: Tensors) -> Tensors:
        """Advance the moments and return the step before the learning rate, in float32.

        The quotient passes through the second moment's type, its sum with the decay through the weight's.
        """
        quotients = self._quotients(batch, gradients)
        quotients = self.rounding.load(self.rounding.narrow(quotients, batch.slots["Accl2"]))
        if not self.coupled:
            torch._foreach_add_(quotients, self.rounding.load(batch.weights), alpha=batch.group.weight_decay)
        return self.rounding.load(self.rounding.narrow(quotients, batch.weights))

    def _quotients(self, batch: Batch, gradients: Tensors) -> Tensors:
        """Advance the moments and return the quotient of the corrected ones."""
        group = batch.group
        torch._foreach_add_(batch.slots["Step"], 1.0)
        first = self._average(batch, "Accl1", gradients, group.betas[0])
        second = self._average_square(batch, "Accl2", gradients, group.betas[1])
        corrections = self._corrections(batch)
        denominators = torch._foreach_div(second, corrections[1])
        torch._foreach_sqrt_(denominators)
        torch._foreach_add_(denominators, group.eps)
        quotients = torch._foreach_div(first, corrections[0])
        torch._foreach_div_(quotients, denominators)
        return quotients

    def _corrections(self, batch: Batch) -> Tuple[Tensors, Tensors]:
        """Return 1 - b^t for both moments, each in its moment's type."""
        steps = torch.stack(batch.slots["Step"]).double()
        corrections: List[Tensors] = []
        for beta, slot in zip(batch.group.betas, ("Accl1", "Accl2")):
            values = 1.0 - beta**steps if self.hyper.bias_correction else torch.ones_like(steps)
            corrections.append(list(values.to(batch.slots[slot][0].dtype).float().unbind()))
        return corrections[0], corrections[1]


class LambRule(AdamRule):
    """AdamW's step u, times min(‖w‖, max_weight_norm) / ‖u‖, or times 1 if one of the three is 0."""

    def apply(self, batch: Batch, updates: Tensors) -> None:
        """Take the step from unscaled gradients."""
        directions = self._direction(batch, self.rounding.load(updates))
        weight_norms = torch.stack(torch._foreach_norm(self.rounding.load(batch.weights)))
        weight_norms = weight_norms.clamp(max=batch.group.max_weight_norm)
        norms = torch.stack(torch._foreach_norm(directions))
        trusted = (weight_norms > 0) & (norms > 0)
        ratios = torch.where(trusted, weight_norms / norms, torch.ones_like(norms))
        torch._foreach_mul_(directions, list(ratios.unbind()))
        subtract(batch, directions, batch.group.lr, self.rounding)

    def _quotients(self, batch: Batch, gradients: Tensors) -> Tensors:
        if not batch.all_float32() or not self.hyper.bias_correction:
            return super()._quotients(batch, gradients)
        quotients = [torch.zeros_like(weight) for weight in batch.weights]
        upwards = replace(batch, weights=quotients, group=replace(batch.group, lr=-1.0))
        self._launch(torch._fused_adamw_, upwards, gradients, 0.0, Scale())  # 0 + 1 * quotient
        return quotients


class RMSpropRule(_MomentRule):
    """v = a v + (1 - a) g²; w -= lr g / (sqrt(v) + eps), with torch's centred and momentum variants.

    The TensorFlow variant starts v at 1 and divides by sqrt(v + eps). Accl1 holds the mean gradient of the centred
    variant, Accl2 v, Accl3 the momentum.
    """

    def slots(self, group: Group, weight: Tensor) -> Dict[str, Tensor]:
        """Return the state of a weight before its first step."""
        start = 1.0 if self.hyper.use_tf_variant else 0.0
        slots = {"Accl2": torch.full_like(weight, start, dtype=self.hyper.second_type, requires_grad=False)}
        if group.centered:
            slots["Accl1"] = torch.zeros_like(weight, dtype=self.hyper.first_type)
        if group.has_momentum:
            slots["Accl3"] = torch.zeros_like(weight, dtype=self.hyper.first_type)
        return slots

    def apply(self, batch: Batch, updates: Tensors) -> None:
        """Take the step from unscaled gradients."""
        group, updates = batch.group, self.rounding.load(updates)
        variances = self._average_square(batch, "Accl2", updates, group.alpha)
        if group.centered:
            means = self._average(batch, "Accl1", updates, group.alpha)
            variances = torch._foreach_addcmul(variances, means, means, -1)
        if self.hyper.use_tf_variant:
            denominators = torch._foreach_sqrt(torch._foreach_add(variances, group.eps))
        else:
            denominators = torch._foreach_sqrt(variances)
            torch._foreach_add_(denominators, group.eps)
        steps: Tensors = torch._foreach_div(updates, denominators)
        if group.has_momentum:
            momenta = self.rounding.load(batch.slots["Accl3"])
            torch._foreach_mul_(momenta, group.momentum)
            torch._foreach_add_(momenta, steps)
            self.rounding.store(batch.slots["Accl3"], momenta)
            steps = self.rounding.load(batch.slots["Accl3"])
        subtract(batch, steps, group.lr, self.rounding)
