"""The training loop, from the first update or the one after a checkpoint to the last."""

from __future__ import annotations

import time
from typing import Any, Dict, Iterator, Optional, Tuple

import tensorflow as tf

from checkpoints import Checkpoints
from data import Data
from errors import Stopped
from evaluation import Evaluator
from options import TrainOptions
from recipe import Recipe
from schedule import make_schedule
from signals import StopOnSignal
from training import Trainer

Batch = Tuple[tf.Tensor, tf.Tensor]


class Loop:
    """Trains, evaluates after every epoch, saves and reports.

    Args:
        options: of the run.
        recipe: its numbers.
        trainer: makes the updates.
        data: of this worker.
        checkpoints: with the state to go on from.
        callbacks: called on every process; those that write belong to the first one's list only.
        stop: set by signals.
    """

    def __init__(
        self,
        options: TrainOptions,
        recipe: Recipe,
        trainer: Trainer,
        data: Data,
        checkpoints: Checkpoints,
        callbacks: tf.keras.callbacks.CallbackList,
        stop: StopOnSignal,
    ) -> None:
        self.options, self.recipe, self.trainer, self.data = options, recipe, trainer, data
        self.checkpoints, self.callbacks, self._stop = checkpoints, callbacks, stop
        self._evaluator = Evaluator(trainer.model, trainer.workers, stop)
        self._schedule = make_schedule(options, recipe.steps_per_epoch)
        self._since, self._samples = time.monotonic(), 0

    def run(self) -> None:
        """Every update that is left.

        Raises:
            Stopped: a signal asked to stop; what was done is saved.
        """
        start = int(self.checkpoints.update)
        recipe = self.recipe
        self.callbacks.on_train_begin()
        if int(self.checkpoints.owes_evaluation):
            self._end_epoch(start, {})
        stream = iter(self.data.training(recipe.place(start)[1])) if start < recipe.updates else iter(())
        sums, count = tf.zeros(3), 0
        for update in range(start, recipe.updates):
            measured, stopping = self._update(update, stream)
            sums, count = sums + measured, count + 1
            done = update + 1
            if done % recipe.updates_per_epoch == 0:
                loss, accuracy, norm = (sums / count).numpy()
                means = {"loss": loss, "accuracy": accuracy, "gradient_norm": norm, "learning_rate": self._rate(update)}
                self._end_epoch(done, means, stopping)
                sums, count = tf.zeros(3), 0
            elif stopping or recipe.passes(self.options.checkpoint_steps, update):
                self._save(done)
            if stopping and done < recipe.updates:
                raise self._stopped(done)
        self.callbacks.on_train_end()

    def _update(self, update: int, stream: Iterator[Batch]) -> Tuple[tf.Tensor, bool]:
        _, first, count = self.recipe.place(update)

        def micro_batches() -> Iterator[Batch]:
            for step in range(first, first + count):
                self.callbacks.on_train_batch_begin(step)
                yield next(stream)
                if step < first + count - 1:
                    self.callbacks.on_train_batch_end(step)

        rate = self._rate(update)
        measured, stopping = self.trainer.update(micro_batches(), number=update, rate=rate, stop=self._stop)
        self._samples += count * self.options.batch_size
        due = self.recipe.is_reported(update + 1) or self.recipe.passes(self.options.save_summary_steps, update)
        self.callbacks.on_train_batch_end(first + count - 1, self._report(update, rate, measured) if due else {})
        return measured, stopping

    def _report(self, update: int, rate: float, measured: tf.Tensor) -> Dict[str, Any]:
        found = self.trainer.measured(measured)  # waits for the device, so that the time below is true
        now = time.monotonic()
        throughput = self._samples / max(now - self._since, 1e-9)
        self._since, self._samples = now, 0
        return {"update": update + 1, **found._asdict(), "learning_rate": rate, "throughput": throughput}

    def _rate(self, update: int) -> float:
        epoch, first, _ = self.recipe.place(update)
        return self._schedule(first, epoch)

    def _end_epoch(self, done: int, means: Dict[str, Any], stopping: bool = False) -> None:
        """Evaluate and save after an epoch; `means` are those of its updates, empty if an earlier process made them."""
        began = time.monotonic()
        logs: Dict[str, Any] = {"update": done, **means}
        given_up = stopping
        if self.options.validation_steps != 0 and not stopping:
            score = self._evaluator(self.data.evaluation())
            given_up = score is None
            if score:
                names = {"loss": score.loss, "accuracy": score.top1, "top5": score.top5, "samples": score.samples}
                logs.update({f"val_{name}": value for name, value in names.items()})
        accuracy: Optional[float] = logs.get("val_accuracy")
        if accuracy is not None and self.trainer.workers.is_main:
            self.checkpoints.save_best(done, accuracy)
        # Before the checkpoint: what a kill cuts off behind it is never measured again.
        self.callbacks.on_epoch_end(done // self.recipe.updates_per_epoch - 1, logs)
        self._save(done, owes_evaluation=given_up and self.options.validation_steps != 0)
        if given_up:
            raise self._stopped(done)
        self._since += time.monotonic() - began  # the throughput is that of training

    def _save(self, done: int, *, owes_evaluation: bool = False) -> None:
        if self.trainer.workers.is_main:
            self.checkpoints.save(done, owes_evaluation=owes_evaluation)

    def _stopped(self, done: int) -> Stopped:
        return Stopped(
            f"stopped after update {done}, which is saved; go on with --resume_from_checkpoint_path "
            f"{self.checkpoints.folder.parent}"
        )
