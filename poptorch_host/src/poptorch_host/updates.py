"""The optimizer on the device: PopART's update of a program's weights, from gradients that are still loss-scaled."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Callable, Dict, List, Mapping, Optional, Union

import torch
import torch.distributed as dist
from torch import Tensor

from poptorch_host.errors import Error
from poptorch_host.hyperparameters import Group, device_values, read, read_group, replacement
from poptorch_host.precision import numerics
from poptorch_host.rules import make_rule
from poptorch_host.sharding import Shards
from poptorch_host.update_rules import Batch, Rounding, Scale, Tensors, clip_factor, untouched_if

_SLOTS = ("Accl1", "Accl2", "Accl3", "Step")


class DeviceOptimizer:
    """Updates weights in place with the values of the last snapshot.

    Arguments:
        optimizer: one of `poptorch_host.optim`, or torch's SGD, Adam, AdamW or RMSprop.
        weights: the tensors to update by parameter name; float32 (weights or masters) or float16.
        names: the parameter name by the `id` of the optimizer's parameter.
        process_group: who shares the work with `shard`; None means all processes.
        shard: each process keeps the state of a share of the parameters, updates these and sends them to the others.
            The results are the same.
        automatic_loss_scaling: `loss_scaling` may change even if it was not given to the constructor.
        stochastic_rounding: round to float16 up or down at random, with the right expectation. Several processes
            would round differently, so this implies `shard`.
        generator: where the randomness comes from, by default the device's global generator.

    With POPTORCH_HOST_NUMERICS=fast moments are float32 whatever types the optimizer asks for, which is more precise
    than asked; with exact they are as asked. State that the optimizer has loaded is taken over.

    Raises AssertionError for other classes, ValueError for amsgrad, Error if no parameter is known.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        weights: Dict[str, Tensor],
        names: Mapping[int, str],
        *,
        process_group: Optional[dist.ProcessGroup] = None,
        shard: bool = False,
        automatic_loss_scaling: bool = False,
        stochastic_rounding: bool = False,
        generator: Optional[torch.Generator] = None,
    ) -> None:
        self._names = dict(names)
        self._automatic_loss_scaling = automatic_loss_scaling
        self._hyper = read(optimizer, self._names, automatic_loss_scaling=automatic_loss_scaling)
        self._weights = {name: weights[name] for group in self._hyper.groups for name in group.names}
        distributed = dist.is_available() and dist.is_initialized() and dist.get_world_size(process_group) > 1
        self._shards: Optional[Shards] = None
        if distributed and (shard or stochastic_rounding):
            sizes = {name: weight.numel() for name, weight in self._weights.items()}
            self._shards = Shards(sizes, process_group)
        stored = self._hyper
        if numerics() == "fast":
            stored = replace(stored, first_type=torch.float32, second_type=torch.float32)
        self._rounding = Rounding(stochastic_rounding, generator)
        self._rule = make_rule(stored, self._rounding)
        self._slots = self._fresh_slots(set(self._weights if self._shards is None else self._shards.own))
        self._waits_for_device = next(iter(self._weights.values())).device.type != "cpu"
        loaded = getattr(optimizer, "_ipu_state", None)
        if loaded is not None:
            self.load_state(loaded)

    def _fresh_slots(self, names: set[str]) -> Dict[str, Dict[str, Tensor]]:
        return {
            name: self._rule.slots(group, self._weights[name])
            for group in self._hyper.groups
            for name in group.names
            if name in names
        }

    @property
    def loss_scaling(self) -> float:
        """The loss scaling of the snapshot."""
        return self._hyper.loss_scaling

    @property
    def accum_type(self) -> torch.dtype:
        """The type that gradients are accumulated in."""
        return self._hyper.accum_type

    @property
    def accumulates_running(self) -> bool:
        """Whether the accumulator must hold a running mean, so that it stays inside float16's range."""
        return self.accum_type is torch.float16 and not self._hyper.use_combined_accum

    def snapshot(self, optimizer: torch.optim.Optimizer) -> None:
        """Use the present values of `optimizer` from now on; Error if one changed that was compiled as a constant."""
        new = read(optimizer, self._names, automatic_loss_scaling=self._automatic_loss_scaling)
        self._hyper = replacement(self._hyper, new)
        optimizer._opt_called = True  # type: ignore[attr-defined]  # torch's schedulers wait for a step() otherwise

    @torch.no_grad()
    def step(
        self,
        gradients: Mapping[str, Tensor],
        *,
        loss_scale: Union[float, Tensor],
        divisor: int,
        running: bool,
        found_inf: Optional[Tensor] = None,
    ) -> None:
        """Update the weights that have a gradient.

        Arguments:
            gradients: reduced over micro-batches and replicas, still times `loss_scale`; float32 ones may be
                overwritten.
            divisor: what the reduced gradients are still too large by: the number of micro-batches of all replicas
                for a mean that is taken at the end, else 1.
            running: whether the gradients are running means; these have been divided.
            found_inf: 0-d float tensor on the weights' device; if it is not 0, weights and state stay as they are.
        """
        assert not (running and divisor != 1), "a running mean has been divided already"
        if found_inf is not None and not self._waits_for_device:
            if found_inf.item() != 0:
                return
            found_inf = None
        if found_inf is not None:
            found_inf = (found_inf != 0).float()
        scale = Scale(loss_scale, divisor, self.loss_scaling)
        batches = [self._batch(group, gradients, scale, found_inf) for group in self._hyper.groups]
        remaining = [batch for batch in batches if batch.weights and not self._rule.fused(batch)]
        with untouched_if(found_inf, [tensor for batch in remaining for tensor in batch.stored()]):
            self._update(remaining)
        if self._shards is not None:
            self._shards.share({name: [weight] for name, weight in self._weights.items() if name in gradients})

    def _batch(self, group: Group, gradients: Mapping[str, Tensor], scale: Scale, found_inf: Optional[Tensor]) -> Batch:
        names = [name for name in group.names if name in self._slots and name in gradients]
        weights = [self._weights[name] for name in names]
        laid_out = [_laid_out_like(weight, gradients[name]) for name, weight in zip(names, weights)]
        kinds = self._slots[names[0]] if names else {}
        slots = {slot: [self._slots[name][slot] for name in names] for slot in kinds}
        return Batch(group, names, weights, laid_out, slots, scale, found_inf)

    def _update(self, batches: List[Batch]) -> None:
        updates = [self._rule.prepare(batch) for batch in batches]
        if math.isfinite(self._hyper.max_grad_norm):
            updates = self._clipped(batches, updates)
        for batch, tensors in zip(batches, updates):
            self._rule.apply(batch, tensors)

    def _clipped(self, batches: List[Batch], updates: List[Tensors]) -> List[Tensors]:
        """Limit the norm over all parameters of all processes."""
        known: Dict[str, Tensor] = {}
        for batch, tensors in zip(batches, updates):
            known.update(zip(batch.names, torch._foreach_norm(self._rounding.load(tensors))))
        half = any(tensors[0].dtype is torch.float16 for tensors in updates)
        zero = torch.zeros((), device=next(iter(self._weights.values())).device)
        norms = torch.stack([known.get(name, zero) for name in self._weights])
        if self._shards is not None:
            self._shards.sum(norms)
        factor = clip_factor(norms, self._hyper.max_grad_norm, half)
        limited = [self._rounding.load(tensors) for tensors in updates]
        for tensors in limited:
            torch._foreach_mul_(tensors, factor)
        return [self._rounding.narrow(values, tensors) for values, tensors in zip(limited, updates)]

    def state(self) -> Dict[str, Tensor]:
        """Return copies of the state on the CPU: "Accl1___<parameter>", "Accl2___…", "Step___…".

        With `shard` all processes must call this together, and each receives the whole state.
        """
        slots = self._slots
        if self._shards is not None:
            slots = {**self._fresh_slots(self._weights.keys() - slots.keys()), **slots}
            self._shards.share({name: list(slots[name].values()) for name in self._weights})
        return {
            f"{slot}___{name}": tensor.to("cpu", copy=True)
            for name in self._weights
            for slot, tensor in slots[name].items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned; entries that are none of its own ("Master___…") are left alone.

        Raises Error, before anything has changed, if a parameter's state is missing, unknown or of another shape.
        """
        expected = {f"{slot}___{name}": tensor for name in self._slots for slot, tensor in self._slots[name].items()}
        for key, tensor in expected.items():
            if key not in state:
                raise Error(f"The optimizer state holds no {key}: it was saved from another model or optimizer")
            if state[key].shape != tensor.shape:
                raise Error(f"{key} is {tuple(state[key].shape)} in the optimizer state, not {tuple(tensor.shape)}")
        for key in state:
            slot, _, name = key.partition("___")
            if slot in _SLOTS and (name not in self._weights or (name in self._slots and key not in expected)):
                raise Error(f"The optimizer state holds {key}, which this model and optimizer do not have")
        for key, tensor in expected.items():
            tensor.copy_(state[key])

    def parameters_state(self) -> Dict[str, Tensor]:
        """Return the snapshot as 0-d tensors, e.g. "learningRate___specific___<parameter>" and "lossScaling_FLOAT"."""
        return device_values(self._hyper)


def _laid_out_like(weight: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient with the weight's strides: the fused kernels go by memory order and do not check."""
    if gradient.stride() == weight.stride():
        return gradient
    return torch.empty_like(weight, dtype=gradient.dtype, requires_grad=False).copy_(gradient)


def host_step(optimizer: torch.optim.Optimizer, closure: Optional[Callable[[], float]] = None) -> Optional[float]:
    """Update an optimizer's own parameters from their `.grad`, with its state in `optimizer.state`, in float32."""
    loss = None
    if closure is not None:
        with torch.enable_grad():
            loss = closure()
    names = {id(p): str(i) for i, p in enumerate(q for group in optimizer.param_groups for q in group["params"])}
    hyper = replace(read(optimizer, names), first_type=torch.float32, second_type=torch.float32)
    rule = make_rule(hyper, Rounding())
    for group in optimizer.param_groups:
        values = read_group(optimizer, group, hyper.family)
        parameters = [p for p in group["params"] if p.grad is not None]
        for parameter in parameters:
            if not optimizer.state[parameter]:
                optimizer.state[parameter].update(rule.slots(values, parameter))
        if not parameters:
            continue
        states = [optimizer.state[p] for p in parameters]
        gradients = [p.grad.clone() for p in parameters]
        slots = {slot: [state[slot] for state in states] for slot in states[0]}
        batch = Batch(values, [], parameters, gradients, slots, Scale())
        rule.apply(batch, rule.prepare(batch))
    return loss
