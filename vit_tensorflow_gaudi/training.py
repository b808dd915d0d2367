"""A training step: micro-steps add gradients up, an update averages, sums over workers, clips and applies them.

Shape letters: b images per worker and micro-step, S image side, C classes.
"""

from __future__ import annotations

from typing import Callable, Iterable, NamedTuple, Optional, Tuple

import numpy as np
import tensorflow as tf

from distributed import Workers, flat, unflat
from errors import UserError
from models.dropout import DropoutMasks


class Measured(NamedTuple):
    """What an update saw, over all workers: mean loss, share of hits, norm of the averaged gradient before clipping."""

    loss: float
    accuracy: float
    gradient_norm: float


def normalise(images: tf.Tensor) -> tf.Tensor:
    """uint8 (b, S, S, 3) -> float32 in [-1, 1]; floats, which the pipeline has normalised, stay."""
    return tf.cast(images, tf.float32) / 127.5 - 1.0 if images.dtype == tf.uint8 else images


class Trainer:
    """Trains a model one update at a time.

    Args:
        model: from images in [-1, 1] to logits.
        optimizer: reads `learning_rate`, does not clip.
        learning_rate: variable that `update` sets.
        workers: the processes that share every micro-step.
        clip_norm: cap on the global norm of the averaged gradient; 0 for none.
        masks: of the model's dropout; None where Keras draws them.
        jit_compile: compile forward and backward pass with XLA.
    """

    def __init__(
        self,
        model: tf.keras.Model,
        optimizer: tf.keras.optimizers.Optimizer,
        learning_rate: tf.Variable,
        workers: Workers,
        *,
        clip_norm: float,
        masks: Optional[DropoutMasks] = None,
        jit_compile: bool = False,
    ) -> None:
        self.model, self.optimizer, self.workers = model, optimizer, workers
        self._rate, self._clip_norm, self._masks = learning_rate, clip_norm, masks
        self._variables = model.trainable_variables
        # Sums of gradients, then of (loss, hits, 0), stay in variables from one micro-step to the next. As results of a
        # function they would be a tensor for Python each, of which TensorFlow never frees the last 48 bytes on Python
        # 3.11 (its issue 62551): ten kilobytes per micro-step of ViT-B.
        self._summed = [_zeros_like(variable) for variable in self._variables]
        self._summed.append(tf.Variable(tf.zeros(3), trainable=False))
        self._backward = tf.function(self._run_backward, jit_compile=jit_compile or None)

    def update(
        self,
        batches: Iterable[Tuple[tf.Tensor, tf.Tensor]],
        *,
        number: int,
        rate: float,
        stop: Callable[[], bool] = bool,
    ) -> Tuple[tf.Tensor, bool]:
        """One update from this worker's micro-batches.

        Args:
            batches: images (b, S, S, 3) and labels (b,), one pair per micro-step.
            number: of the update, from 0.
            rate: learning rate.
            stop: says whether this worker was asked to stop.

        Returns the totals for `measured`, still on the device, and whether any worker was asked to stop.

        Raises:
            UserError: loss or gradient is not finite; the weights are as they were.
        """
        steps = share = 0
        for step, (images, labels) in enumerate(batches):
            steps, share = step + 1, int(images.shape[0])
            if self._masks:
                self._masks.set_place(number, (step * self.workers.size + self.workers.rank) * share)
            self._backward(images, labels, step == 0)
        assert steps, "an update without a micro-step"
        everything, stopping = self._sum(stop())
        # TensorFlow keeps a copy of every Python number that it was ever given, but not of NumPy's.
        self._rate.assign(np.float32(rate))
        parts = steps * self.workers.size
        try:
            return self._apply(everything, np.array([parts, parts * share], np.float32)), stopping
        except tf.errors.InvalidArgumentError as error:
            if "Tensor had" not in str(error):
                raise
            what = "loss" if "loss" in str(error).split("Tensor had")[0] else "gradient norm"
            raise UserError(
                f"the {what} of update {number + 1} is not finite (learning rate {rate:.3g}); the weights are as "
                "before it: go on from the last checkpoint with a lower --initial_lr, or longer --warmup_steps"
            ) from error

    def measured(self, totals: tf.Tensor) -> Measured:
        """The numbers of an update; waits for the device."""
        return Measured(*(float(value) for value in totals.numpy()))

    def _run_backward(self, images: tf.Tensor, labels: tf.Tensor, first: bool) -> None:
        self.workers.run(self._add_gradients, images, labels, first)

    def _add_gradients(self, images: tf.Tensor, labels: tf.Tensor, first: bool) -> None:
        """Add this micro-batch's gradients and (loss, hits, 0) to the sums, which the first one begins."""
        with tf.GradientTape() as tape:
            logits = self.model(normalise(images), training=True)  # (b, S, S, 3) -> (b, C)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, self._variables)
        hits = tf.reduce_sum(tf.cast(tf.argmax(logits, 1, labels.dtype) == labels, tf.float32))
        for summed, found in zip(self._summed, [*gradients, tf.stack([loss, hits, 0.0])]):
            (summed.assign if first else summed.assign_add)(found)

    def _sum(self, stop: bool) -> Tuple[Optional[tf.Tensor], bool]:
        """The sums over all workers, in one vector: one message per update. None where there is one worker."""
        if self.workers.size == 1:
            return None, stop
        vector = self.workers.sum(self._flat(tf.constant([0.0, 0.0, float(stop)])))
        return vector, bool(vector[-1] > 0)

    @tf.function
    def _flat(self, flags: tf.Tensor) -> tf.Tensor:
        return flat([*self._summed[:-1], self._summed[-1] + flags])

    @tf.function
    def _apply(self, everything: Optional[tf.Tensor], counts: tf.Tensor) -> tf.Tensor:
        return self.workers.run(self._clip_and_apply, everything, counts)

    def _clip_and_apply(self, everything: Optional[tf.Tensor], counts: tf.Tensor) -> tf.Tensor:
        """Apply the averaged gradients; returns what `Measured` holds.

        Args:
            everything: the sums over all workers in one vector, None for this worker's own.
            counts: (micro-batches, images) that were added up.
        """
        summed = [variable.read_value() for variable in self._summed]
        if everything is not None:
            summed = unflat(everything, [variable.shape for variable in self._summed])
        *gradients, totals = summed
        share = 1.0 / counts[0]
        loss = tf.debugging.check_numerics(totals[0], "loss")
        norm = tf.debugging.check_numerics(tf.linalg.global_norm(gradients) * share, "gradient norm")
        # On the way to every weight, so that nothing is applied before the checks: no device waits for Python here.
        with tf.control_dependencies([loss, norm]):
            factor = share * (self._clip_norm / tf.maximum(norm, self._clip_norm) if self._clip_norm else 1.0)
            pairs = [(gradient * factor, variable) for gradient, variable in zip(gradients, self._variables)]
            self.optimizer.apply_gradients(pairs, experimental_aggregate_gradients=False)
        return tf.stack([loss / counts[0], totals[1] / counts[1], norm])


def _zeros_like(variable: tf.Variable) -> tf.Variable:
    """Where `variable` is, but of this process alone, whatever strategy mirrors that one."""
    with tf.device(variable.device):
        return tf.Variable(tf.zeros(variable.shape, variable.dtype), trainable=False)
