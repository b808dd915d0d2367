"""One training run: executor, optimizer, checkpoints; what the loop in loop.py calls."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import torch
from torch import Tensor, nn

from ipu.poptorch_options import LOSS_SCALE
from ipu.program import Program
from ipu.recipe import Recipe
from ipu.state import capture, require_same, restore, restore_generators
from poptorch_host.backend import poptorch
from run import distributed
from run.checkpoints import Checkpoints
from run.errors import UserError
from run.sampling import TrainingStream


@dataclass(frozen=True)
class Saving:
    """Where and when a run is saved and evaluated, in host steps; every 0 steps is only after the last one."""

    folder: Path
    keep: int  # checkpoints beside the best
    save_every: int
    evaluate_every: int
    resume: bool  # from the newest checkpoint in the folder, if there is one


class Training:
    """A model in training, from its newest checkpoint when the run is resumed.

    An app says in a subclass what its learning rate is and what a checkpoint's weights are; the other methods it
    replaces where it has more to do.

    Args:
        program: how the model is run.
        ipu_options: PopTorch's, made from it.
        recipe: derived numbers.
        model: to train, device inputs → loss, or (loss, correct predictions); taken over by the executor.
        optimizer: of PopTorch.
        saving: where and when.
        identity: options that a resumed run must share.

    Attributes:
        start: host steps that are behind the run.
        executor: PopTorch's training executor.
        last_learning_rate: of the last step.
    """

    def __init__(
        self,
        program: Program,
        ipu_options: Any,
        recipe: Recipe,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        saving: Saving,
        identity: Dict[str, Any],
    ) -> None:
        self.program, self.ipu_options, self.recipe = program, ipu_options, recipe
        self.model, self.optimizer, self.saving, self.identity = model, optimizer, saving, identity
        self.checkpoints = Checkpoints(saving.folder, keep=saving.keep)
        saved = self.checkpoints.load("latest") if saving.resume else None
        self.start = saved.step if saved else 0
        self._metric = saved.metric if saved else None
        self._state = saved.state if saved else None
        if self._state:
            require_same(self._state["identity"], identity)
            restore(self._state, model, optimizer)
            self.restore_more(self._state)
        self.executor: Any = self.new_executor()
        self.last_learning_rate = 0.0

    def new_executor(self) -> Any:
        """PopTorch's training executor of the model, whose weights are those to start from; or what takes its place."""
        return poptorch.trainingModel(self.model.train(), self.ipu_options, self.optimizer)

    def learning_rate(self, step: int) -> float:
        """Learning rate of host step `step` (from 0); groups multiply it by their `lr_scale`, if they have one."""
        raise NotImplementedError

    def write_weights(self, folder: Path) -> None:
        """Write the model's weights into a checkpoint's folder, in the layout that others read."""
        raise NotImplementedError

    def device_inputs(self, step: int, batch: Tuple[Tensor, ...]) -> Tuple[Tensor, ...]:  # noqa: ARG002
        """What the model takes in host step `step` (from 1), from the loader's batch: the rows of this process."""
        return batch

    def after_step(self, step: int) -> None:
        """What is to be done after host step `step` (from 1)."""

    def more_state(self) -> Dict[str, Any]:
        """What a checkpoint holds beside weights, optimizer and random generators."""
        return {}

    def restore_more(self, state: Dict[str, Any]) -> None:
        """Put back what `more_state` gave."""

    @property
    def loss_scale(self) -> Optional[float]:
        """The automatic loss scale of the last update, None where it is fixed."""
        if not self.program.automatic_loss_scaling:
            return None
        return float(self.executor.getAnchoredTensor(LOSS_SCALE).reshape(-1)[-1])

    def step(self, step: int, stream: TrainingStream, batch: Tuple[Tensor, ...]) -> Tuple[Tensor, ...]:
        """Host step `step` (from 1): set the learning rate, run the device.

        Returns:
            What the model returns, for each micro-batch of this process; the loss comes first.

        Raises:
            UserError: the model doesn't compile, or a loss or gradient is not finite, which is found before the
                update that it would have spoilt.
        """
        inputs = self.device_inputs(step, batch)
        if not self.executor.isCompiled():
            self.compile(inputs)
        self.last_learning_rate = self.learning_rate(step - 1)
        set_learning_rate(self.optimizer, self.last_learning_rate)
        self.executor.setOptimizer(self.optimizer)
        try:
            outputs = self.executor(*inputs)
        except poptorch.Error as error:
            first = (step - 1) * self.program.device_iterations
            ids = [i for update in range(self.program.device_iterations) for i in stream.sample_ids(first + update)]
            listed = ", ".join(map(str, ids[:8])) + (" …" if len(ids) > 8 else "")
            raise UserError(
                f"step {step} at learning rate {self.last_learning_rate:g} failed: {error} (samples {listed}); "
                "go on from the last checkpoint with a lower learning rate, or look at these samples"
            ) from error
        self.after_step(step)
        return (outputs,) if isinstance(outputs, Tensor) else outputs

    def compile(self, inputs: Tuple[Tensor, ...]) -> None:
        """Compile for device inputs like these and put the random generators back; UserError if it can't be done."""
        try:
            self.executor.compile(*inputs)
        except poptorch.Error as error:
            raise UserError(str(error)) from error
        if self._state:
            restore_generators(self._state, self.executor)
            self._state = None

    @property
    def owes_evaluation(self) -> bool:
        """Whether the checkpoint that the run goes on from was saved when its evaluation was cut off."""
        return self.start > 0 and self._metric is None and self.is_evaluated(self.start)

    def is_evaluated(self, step: int) -> bool:
        """Whether an evaluation is due after `step`."""
        return step == self.recipe.steps or _due(step, self.saving.evaluate_every)

    def is_saved(self, step: int) -> bool:
        """Whether a checkpoint is due after `step`."""
        return step == self.recipe.steps or _due(step, self.saving.save_every)

    def save(self, step: int, metric: Optional[float]) -> None:
        """Write checkpoint `step`; `metric`, higher is better, decides which is best."""
        state = self._state
        if state is None:
            state = {**capture(self.model, self.optimizer, self.executor), **self.more_state()}
        state = {**state, "identity": self.identity}
        if distributed.is_main():
            self.checkpoints.save(step, state, writers={"weights": self.write_weights}, metric=metric)
        distributed.barrier()


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Give every group `value`, times its own `lr_scale` if it has one; the device sees it after `setOptimizer`."""
    for group in optimizer.param_groups:
        group["lr"] = value * group.get("lr_scale", 1.0)


def _due(step: int, every: int) -> bool:
    """Whether something done every `every` steps (0: never) is due after `step`."""
    return every > 0 and step % every == 0
