"""One training run: executor, optimizer, checkpoints; what finetune.py's loop calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, Optional, Tuple

from torch import Tensor

from ipu_options import training_options
from models.supervised import Supervised
from optimization import create_optimizer, learning_rate, set_learning_rate
from options import FinetuneOptions
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
        self._state = saved.state if saved else None
        if self._state:
            restore(self._state, options, model, self.optimizer)
        self.ipu_options = training_options(options)
        self.executor: Any = poptorch.trainingModel(model.train(), self.ipu_options, self.optimizer)
        self.learning_rate = 0.0

    def step(self, step: int, stream: TrainingStream, images: Tensor, labels: Tensor) -> Tuple[Tensor, Tensor]:
        """Host step `step` (from 1): set the learning rate, run the device.

        Returns:
            Loss and number of correct predictions of each micro-batch of this process.

        Raises:
            UserError: the model doesn't compile, or a loss or gradient is not finite, which is found before the
                update that it would have spoilt.
        """
        if not self.executor.isCompiled():
            self._compile(images, labels)
        self.learning_rate = learning_rate(self.options, step - 1, self.recipe.steps)
        set_learning_rate(self.optimizer, self.learning_rate)
        self.executor.setOptimizer(self.optimizer)
        try:
            return self.executor(images, labels)
        except poptorch.Error as error:
            first = (step - 1) * self.options.device_iterations
            ids = [i for update in range(self.options.device_iterations) for i in stream.sample_ids(first + update)]
            listed = ", ".join(map(str, ids[:8])) + (" …" if len(ids) > 8 else "")
            raise UserError(
                f"step {step} at learning rate {self.learning_rate:g} failed: {error} (samples {listed}); "
                "go on from the last checkpoint with a lower --learning-rate, or look at these samples"
            ) from error

    def _compile(self, images: Tensor, labels: Tensor) -> None:
        try:
            self.executor.compile(images, labels)
        except poptorch.Error as error:
            raise UserError(str(error)) from error
        if self._state:
            restore_generators(self._state, self.executor)
            self._state = None

    def save(self, step: int, accuracy: Optional[float]) -> None:
        """Write checkpoint `step`; `accuracy`, top-1 on the validation split, decides which is best."""
        state = capture(self.options, self.model, self.optimizer, self.executor)
        if distributed.is_main():
            network, classes = self.model.model, self.classes
            writers = {"weights": lambda path: save_weights(network, path, "huggingface", class_names=classes)}
            self.checkpoints.save(step, state, writers=writers, metric=accuracy)
        distributed.barrier()
