"""One training run: model on its device, optimizer, checkpoints; what the loop in loop.py calls."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any, ContextManager, Iterable, List, Optional, Tuple

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from device import Device
from models.vit import VisionTransformer
from optimization import create_optimizer, learning_rate, set_learning_rate
from options import TrainOptions
from recipe import Recipe
from run import distributed
from run.checkpoints import Checkpoint, Checkpoints
from run.errors import UserError
from run.sampling import TrainingStream
from state import capture, identity, restore, restore_generators
from supervised import Supervised
from weights import save_weights


class Training:
    """A model in training, from a checkpoint when the run goes on from one.

    Args:
        options: of the run.
        recipe: derived numbers.
        model: to train; moved to the device.
        classes: class names, saved with the weights.
        device: where to train.
        saved: checkpoint to go on from, None at the beginning.

    Attributes:
        start: optimizer steps that are behind the run.
        supervised: the model with normalisation and loss, as it is.
        forward: the same as the device runs it in one process, for evaluation.
        learning_rate: of the last step.
    """

    def __init__(
        self,
        options: TrainOptions,
        recipe: Recipe,
        model: VisionTransformer,
        classes: List[str],
        device: Device,
        saved: Optional[Checkpoint] = None,
    ) -> None:
        self.options, self.recipe, self.model, self.classes, self.device = options, recipe, model, classes, device
        self.checkpoints = Checkpoints(options.run_folder / "checkpoints", keep=options.keep_checkpoints)
        self.supervised = Supervised(model).to(device.torch_device)
        self.optimizer = create_optimizer(model, options, device)
        self.start = saved.step if saved else 0
        self._accuracy = saved.metric if saved else None
        self._identity = identity(options, recipe, classes)
        if saved:
            restore(saved.state, self._identity, recipe, model, self.optimizer)
        self._parallel = device.distributed(self.supervised) if distributed.world_size() > 1 else None
        self.forward = device.compiled(self.supervised)
        self._trained = device.compiled(self._parallel) if self._parallel else self.forward
        self._parameters = list(model.parameters())
        self._spoilt = torch.zeros((), dtype=torch.int32, device=device.torch_device)
        self.learning_rate = 0.0
        # Each process has dropout of its own; what is the same for all is drawn from the seed elsewhere.
        device.seed(options.seed + distributed.rank())
        if saved:
            restore_generators(saved.state, device)
        self.supervised.train()

    def step(self, step: int, stream: TrainingStream, micro_batches: Iterable[Tuple[Tensor, Tensor]]) -> Tensor:
        """Optimizer step `step` (from 1): gradients of all micro-batches, clipped, one update.

        Nothing is read from an accelerator unless the step is one that is reported.

        Returns:
            [summed loss of the micro-batches, number of correct predictions] of this process, on the device.

        Raises:
            UserError: a loss or gradient is not finite.
        """
        self.learning_rate = learning_rate(self.options, step, self.recipe.steps)
        set_learning_rate(self.optimizer, self.learning_rate)
        totals = torch.zeros(2, device=self.device.torch_device)
        accumulation = self.recipe.batch.accumulation
        for number, (images, labels) in enumerate(micro_batches, 1):
            with self._synchronised(number == accumulation):
                totals += self._backward(images, labels, accumulation)
        limit = self.options.max_grad_norm or float("inf")
        norm = clip_grad_norm_(self._parameters, limit)
        fine = torch.isfinite(norm) & torch.isfinite(totals[0]) | (self._spoilt > 0)
        self._spoilt = torch.where(fine, self._spoilt, torch.full_like(self._spoilt, step))
        if self.device.is_cpu:
            self.check(stream)
        self.optimizer.step()
        self.device.mark_step()
        self.optimizer.zero_grad(set_to_none=True)
        return totals

    def check(self, stream: TrainingStream) -> None:
        """Read from the device whether a loss or gradient was not finite.

        On a CPU before each update; elsewhere, where reading stops the device, when a step is reported and before
        anything is evaluated or saved: what a bad update spoilt is never kept.

        Raises:
            UserError: one was; says which step it was.
        """
        step = int(self._spoilt)
        if not step:
            return
        rate = learning_rate(self.options, step, self.recipe.steps)
        ids = stream.sample_ids(step - 1)
        listed = ", ".join(map(str, ids[:8])) + (" …" if len(ids) > 8 else "")
        raise UserError(
            f"loss or gradient of step {step} at learning rate {rate:g} is not finite (samples {listed}): go on from "
            "the last checkpoint with --resume and a lower --learning-rate, or look at these samples"
        )

    def _backward(self, images: Tensor, labels: Tensor, accumulation: int) -> Tensor:
        """Add a micro-batch's share to the gradients; [loss, correct predictions]."""
        place = self.device.torch_device
        images, labels = images.to(place, non_blocking=True), labels.to(place, non_blocking=True)
        with self.device.autocast(self.options.autocast):
            loss, correct = self._trained(images, labels)
        self.device.mark_step()
        (loss / accumulation).backward()
        self.device.mark_step()
        return torch.stack([loss.detach().float(), correct])

    def _synchronised(self, last: bool) -> ContextManager[Any]:
        """Gradients are averaged over the processes once for an update, in its last micro-batch."""
        return nullcontext() if last or self._parallel is None else self._parallel.no_sync()

    @property
    def owes_evaluation(self) -> bool:
        """Whether the checkpoint that the run goes on from was saved when its evaluation was cut off."""
        is_within = 0 < self.start <= self.recipe.steps
        return is_within and self._accuracy is None and self.is_evaluated(self.start)

    def is_evaluated(self, step: int) -> bool:
        """Whether an evaluation is due after `step`."""
        return step == self.recipe.steps or _due(step, self.options.eval_every)

    def is_saved(self, step: int) -> bool:
        """Whether a checkpoint is due after `step`."""
        return step == self.recipe.steps or _due(step, self.options.checkpoint_save_steps)

    def save(self, step: int, accuracy: Optional[float]) -> None:
        """Write checkpoint `step`; `accuracy`, top-1 on the validation split, decides which is best."""
        state = capture(self._identity, self.recipe, self.model, self.optimizer, self.device)
        if distributed.is_main():
            self.checkpoints.save(step, state, writers={"weights": self._write_weights}, metric=accuracy)
        distributed.barrier()

    def _write_weights(self, path: Path) -> None:
        save_weights(self.model, path, "huggingface", class_names=self.classes)


def _due(step: int, every: int) -> bool:
    """Whether something done every `every` steps (0: never) is due after `step`."""
    return every > 0 and step % every == 0
