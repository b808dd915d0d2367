"""One training run: executor, optimizer, checkpoints; what the loop in loop.py calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, Optional, Tuple

from torch import Tensor

from dataset.mixup import mixup_coefficients
from ipu_options import LOSS_SCALE, training_options
from models.supervised import Supervised
from optimization import create_optimizer, learning_rate, set_learning_rate
from options import FinetuneOptions, PretrainOptions
from poptorch_host.backend import poptorch
from recipe import Recipe
from run import distributed
from run.checkpoints import Checkpoints
from run.errors import UserError
from run.sampling import TrainingStream
from state import capture, restore, restore_generators
from weights import save_weights


class Training:
    """A model in training, from its newest checkpoint when the run is resumed.

    Args:
        options: of the script.
        recipe: derived numbers.
        model: to train; taken over by the executor.
        classes: class names, saved with the weights.
        folder: of the run; checkpoints go to its `checkpoints/`.

    Attributes:
        start: host steps that are behind the run.
        executor: PopTorch's training executor.
        learning_rate: of the last step.
    """

    def __init__(
        self, options: FinetuneOptions, recipe: Recipe, model: Supervised, classes: List[str], folder: Path
    ) -> None:
        self.options, self.recipe, self.model, self.classes = options, recipe, model, classes
        self.checkpoints = Checkpoints(folder / "checkpoints", keep=options.keep_checkpoints)
        self.optimizer = create_optimizer(model, options)
        saved = self.checkpoints.load("latest") if options.resume else None
        self.start = saved.step if saved else 0
        self._accuracy = saved.metric if saved else None
        self._state = saved.state if saved else None
        if self._state:
            restore(self._state, options, model, self.optimizer)
        self.ipu_options = training_options(options)
        self.executor: Any = poptorch.trainingModel(model.train(), self.ipu_options, self.optimizer)
        self.learning_rate = 0.0

    @property
    def loss_scale(self) -> Optional[float]:
        """The automatic loss scale of the last update, None where it is fixed."""
        if not self.options.auto_loss_scaling:
            return None
        return float(self.executor.getAnchoredTensor(LOSS_SCALE).reshape(-1)[-1])

    def step(self, step: int, stream: TrainingStream, images: Tensor, labels: Tensor) -> Tuple[Tensor, Tensor]:
        """Host step `step` (from 1): set the learning rate, run the device.

        Returns:
            Loss and number of correct predictions of each micro-batch of this process.

        Raises:
            UserError: the model doesn't compile, or a loss or gradient is not finite, which is found before the
                update that it would have spoilt.
        """
        inputs = (images, labels, *self._mixup(step))
        if not self.executor.isCompiled():
            self._compile(inputs)
        self.learning_rate = learning_rate(self.options, step - 1, self.recipe.steps)
        set_learning_rate(self.optimizer, self.learning_rate)
        self.executor.setOptimizer(self.optimizer)
        try:
            return self.executor(*inputs)
        except poptorch.Error as error:
            first = (step - 1) * self.options.device_iterations
            ids = [i for update in range(self.options.device_iterations) for i in stream.sample_ids(first + update)]
            listed = ", ".join(map(str, ids[:8])) + (" …" if len(ids) > 8 else "")
            raise UserError(
                f"step {step} at learning rate {self.learning_rate:g} failed: {error} (samples {listed}); "
                "go on from the last checkpoint with a lower --learning-rate, or look at these samples"
            ) from error

    def _mixup(self, step: int) -> Tuple[Tensor, ...]:
        """A coefficient for each micro-batch of the step, which the device cuts as it cuts the images."""
        options = self.options
        if not (isinstance(options, PretrainOptions) and options.mixup):
            return ()
        updates, micro_batches = options.device_iterations, options.gradient_accumulation * options.replication_factor
        shard = distributed.rank(), distributed.world_size()
        first = (step - 1) * updates
        return (mixup_coefficients(options.random_seed, first, updates, micro_batches, options.alpha, shard),)

    def _compile(self, inputs: Tuple[Tensor, ...]) -> None:
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
        return self.start > 0 and self._accuracy is None and self.is_evaluated(self.start)

    def is_evaluated(self, step: int) -> bool:
        """Whether an evaluation is due after `step`."""
        return step == self.recipe.steps or _due(step, self.options.eval_every)

    def is_saved(self, step: int) -> bool:
        """Whether a checkpoint is due after `step`."""
        return step == self.recipe.steps or _due(step, self.options.checkpoint_save_steps)

    def save(self, step: int, accuracy: Optional[float]) -> None:
        """Write checkpoint `step`; `accuracy`, top-1 on the validation split, decides which is best."""
        state = self._state or capture(self.options, self.model, self.optimizer, self.executor)
        if distributed.is_main():
            network, classes = self.model.model, self.classes
            resize = self.options.eval_resize
            writers = {"weights": lambda path: save_weights(network, path, class_names=classes, eval_resize=resize)}
            self.checkpoints.save(step, state, writers=writers, metric=accuracy)
        distributed.barrier()


def _due(step: int, every: int) -> bool:
    """Whether something done every `every` steps (0: never) is due after `step`."""
    return every > 0 and step % every == 0
