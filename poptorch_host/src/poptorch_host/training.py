"""A compiled training program: forward, loss, backward; reduce; update."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from poptorch_host.anchors import GRADIENT
from poptorch_host.annotations import stage_count
from poptorch_host.batching import Arguments
from poptorch_host.distributed import copy_from_first, join
from poptorch_host.enums import MeanReductionStrategy, ReductionType
from poptorch_host.errors import Error
from poptorch_host.forward import ForwardMode
from poptorch_host.gradients import Accumulation
from poptorch_host.loss import find_loss
from poptorch_host.loss_scaling import FACTOR, LossScale, TrackingMode
from poptorch_host.options import Options
from poptorch_host.program import Program
from poptorch_host.updates import DeviceOptimizer

_MASTER = "Master___"


class ProgramOptimizer(DeviceOptimizer):
    """The device's optimizer whose state also holds the program's master weights and loss-scale factor."""

    def __init__(self, program: TrainingProgram, *args: Any, **kwargs: Any) -> None:
        self._program = program
        super().__init__(*args, **kwargs)

    def state(self) -> dict[str, Tensor]:
        """Return everything that the program keeps between calls besides the model's own weights."""
        finer = self._program.weights.finer
        masters = {f"{_MASTER}{name}": value.to("cpu", copy=True) for name, value in finer.items()}
        return {**super().state(), **masters, **self._program.loss_scale.state()}

    def load_state(self, state: Any) -> None:
        """Load what `state` returned."""
        super().load_state(state)  # checks, before anything is changed
        self._program.loss_scale.load_state(state)
        self._program.weights.load_finer(
            {name[len(_MASTER) :]: value for name, value in state.items() if name.startswith(_MASTER)}
        )


class TrainingProgram(Program):
    """A training program.

    `optimizer` gives the values of the last `setOptimizer`, `names` its parameters' names by id, and `train_flag` is
    the top-level module's `training`.
    """

    training = True

    def __init__(
        self,
        model: nn.Module,
        options: Options,
        arguments: Arguments,
        optimizer: torch.optim.Optimizer,
        names: dict[int, str],
        train_flag: bool,
    ) -> None:
        self._train_flag = train_flag
        super().__init__(model, options, arguments)
        self.group = join(self.world, self.device)
        self.broadcast()
        self.loss_scale.group = self.group
        self._learning_rates = [group["lr"] for group in optimizer.param_groups]
        weights = self._optimized(optimizer, names)
        stochastic = self.exact and bool(options._Popart.options.get("enableStochasticRounding"))
        self.optimizer = ProgramOptimizer(
            self,
            optimizer,
            self.weights.trained,
            {key: name for key, name in names.items() if name in weights},
            process_group=self.group,
            shard=_shards_state(options),
            automatic_loss_scaling=self.loss_scale.enabled,
            stochastic_rounding=stochastic,
        )
        mean, self._running = _reduction(options)
        all_micro_batches = self.cut.accumulation * options.replication_factor
        self._divisor = all_micro_batches if mean and not self._running else 1
        self._accumulation = Accumulation(
            weights,
            dtype=self.optimizer.accum_type,
            accumulation=self.cut.accumulation,
            replicas=self.cut.replicas,
            total_replicas=options.replication_factor,
            running=self._running,
            exact=self.exact,
            stochastic=stochastic,
            group=self.group,
        )
        self._checks_values = bool(options._Popart.options.get("enableFloatingPointChecks"))
        self._found: list[Tensor] = []  # for each device iteration: is the loss, is a gradient not finite
        self._anchored: dict[str, Tensor] = {}

    def _optimized(self, optimizer: torch.optim.Optimizer, names: dict[int, str]) -> dict[str, nn.Parameter]:
        """Return the program's parameters that the optimizer changes; the others need no gradients any more."""
        chosen = {names[id(p)] for group in optimizer.param_groups for p in group["params"] if id(p) in names}
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and name in chosen)
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}

    def _set_mode(self) -> None:
        self.module.training = self._train_flag

    def broadcast(self) -> None:
        """Give all processes the first one's weights and buffers."""
        copy_from_first([t.detach() for t in self.weights.stored()], self.group)
        self.weights.refresh()

    def snapshot(self, optimizer: torch.optim.Optimizer) -> None:
        """Train with the present values of `optimizer` from now on."""
        self.optimizer.snapshot(optimizer)
        self._learning_rates = [group["lr"] for group in optimizer.param_groups]

    def _begin_call(self) -> None:
        super()._begin_call()
        self._accumulation.clear()
        self._found.clear()
        if self._checks_values:
            self._finite_loss = torch.ones((), dtype=torch.bool, device=self.device)

    def _micro_batch(self, leaves: list[Any], replica: int) -> Any:
        result, markers = self._forward(self._inputs(leaves))
        loss = markers[self._loss_index]
        if self._checks_values:
            self._finite_loss = self._finite_loss & loss.detach().isfinite().all()
        self._accumulation.begin(replica)
        loss.backward((torch.ones_like(loss) * self._scale).to(loss.dtype))
        return result

    def _end_iteration(self, iteration: int) -> None:
        gradients = self._accumulation.reduce()
        skip = self._not_finite(gradients) if self._checks_values else None
        self._keep_for_anchors(gradients)
        self.optimizer.step(
            gradients,
            loss_scale=self._scale,
            divisor=self._divisor,
            running=self._running,
            found_inf=None if skip is None else skip.float(),
        )
        self.weights.refresh()
        self.loss_scale.update(skip)
        super()._end_iteration(iteration)

    @property
    def _scale(self) -> float | Tensor:
        return self.loss_scale.scale(self.optimizer.loss_scaling)

    def _keep_for_anchors(self, gradients: dict[str, Tensor]) -> None:
        """Copy what is anchored and the update is about to overwrite."""
        for name in self.anchors.names:
            if name.startswith(GRADIENT):
                weight = name[len(GRADIENT) :]
                unused = torch.zeros_like(self.weights.trained[weight])
                self._anchored[name] = gradients.get(weight, unused).clone()
            elif name == "finalLossScale":
                self._anchored[name] = torch.as_tensor(self._scale, device=self.device).clone()

    def _not_finite(self, gradients: dict[str, Tensor]) -> Tensor:
        """Return a 0-d bool on the device: has a loss or gradient of this call been infinite or NaN in any process."""
        finite = extremes(list(gradients.values())).isfinite().all()
        found = torch.stack([~self._finite_loss, ~finite])
        if self.group is not None:
            found = found.to(torch.int32)
            dist.all_reduce(found, dist.ReduceOp.MAX, self.group)
        self._finite_loss = torch.ones_like(self._finite_loss)
        self._found.append(found.bool())
        return torch.stack(self._found).any()

    def _end_call(self) -> None:
        if not self._checks_values:
            return
        found = torch.stack(self._found).tolist()
        for iteration, (loss, _) in enumerate(found):
            if any(found[iteration]):
                rates = ", ".join(f"{rate:g}" for rate in dict.fromkeys(self._learning_rates))
                raise Error(
                    f"The {'loss' if loss else 'gradient'} of device iteration {iteration} of this call is not finite "
                    f"(learning rate {rates}). Weights and optimizer state are as before that iteration"
                )

    def _forward_mode(self) -> ForwardMode:
        self.loss_scale = LossScale(self.options, self.device)
        if self.loss_scale.enabled:
            return TrackingMode(self.device, self.exact, self.loss_scale)
        return ForwardMode(self.device, self.exact)

    def _check(self, ipus: list[int], markers: list[Tensor]) -> None:
        self._loss_index = find_loss(markers)
        stages = 2 * stage_count(ipus) - 1  # the backward pass has stages of its own, but shares the last one
        if self.pipelined(ipus) and self.cut.accumulation < stages:
            raise Error(
                f"Pipelined training with {stages} stages needs at least as much gradient accumulation, not "
                f"{self.cut.accumulation}: raise Options.Training.gradientAccumulation"
            )
        tracked = self._mode.tracked if isinstance(self._mode, TrackingMode) else 0
        self.loss_scale.check(tracked, self.pipelined(ipus), self.cut.accumulation)
        self._check_ipus(ipus)

    def tensor_names(self) -> list[str]:
        """Return what can be anchored: weights, buffers, gradients and the loss scale."""
        gradients = [f"{GRADIENT}{name}" for name in self.weights.trained]
        return [*super().tensor_names(), *gradients, "finalLossScale", FACTOR]

    def _read(self, name: str) -> Tensor:
        if name == FACTOR:
            return self.loss_scale.factor
        return self._anchored[name] if name in self._anchored else super()._read(name)


def _reduction(options: Options) -> tuple[bool, bool]:
    """Return whether gradients are averaged, and whether that happens while accumulating."""
    mean = options.Training.accumulation_and_replication_reduction_type == ReductionType.Mean
    strategy = options.Training.meanAccumulationAndReplicationReductionStrategy
    if mean and strategy == MeanReductionStrategy.PostAndLoss:
        raise Error("PopTorch 3.4 can't divide by MeanReductionStrategy.PostAndLoss: use Post or Running")
    return mean, mean and strategy == MeanReductionStrategy.Running


def _shards_state(options: Options) -> bool:
    """Say whether optimizer state is dealt out to the processes: replicated tensor sharding."""
    location = getattr(options.TensorLocations, "location_optimizer", {})
    return bool(location.get("useReplicatedTensorSharding", 0))


def extremes(tensors: list[Tensor]) -> Tensor:
    """What is infinite or NaN exactly if an element of `tensors` is: float32, some numbers for each tensor."""
    if tensors[0].device.type == "cpu":  # a tenth of the time that infinity norms take there
        values = [value for tensor in tensors for value in torch.aminmax(tensor)]
    else:
        values = list(torch._foreach_norm(tensors, float("inf")))
    return torch.stack([value.float() for value in values])
