"""Exact evaluation: every sample once, over any number of workers."""

from __future__ import annotations

from typing import Callable, Iterable, List, NamedTuple, Optional, Tuple

import tensorflow as tf

from distributed import Workers
from training import normalise


class Score(NamedTuple):
    """Over all samples: mean loss, shares of them whose label is the likeliest class and among the five likeliest."""

    loss: float
    top1: float
    top5: float
    samples: int


class Evaluator:
    """Scores a model.

    Args:
        model: from images in [-1, 1] to logits.
        workers: the processes that share the samples.
        stopping: asked between batches; True gives the evaluation up.
    """

    def __init__(self, model: tf.keras.Model, workers: Workers, stopping: Callable[[], bool] = lambda: False) -> None:
        self._model, self._workers, self._stopping = model, workers, stopping

    def __call__(self, batches: Iterable[Tuple[tf.Tensor, tf.Tensor]]) -> Optional[Score]:
        """Score of this worker's batches and the others' together; None if one of them gave up.

        Args:
            batches: images (b, S, S, 3) and labels (b,); -1 marks padding, which does not count.
        """
        sums: List[float] = [0.0, 0.0, 0.0, 0.0]
        stopped = False
        for images, labels in batches:
            # In Python's double precision: a float32 loses small losses in a large sum.
            sums = [total + float(part) for total, part in zip(sums, self._count(images, labels).numpy())]
            stopped = self._stopping()
            if stopped:
                break
        loss, top1, top5, samples, stops = self._workers.total([*sums, float(stopped)])
        if stops or not samples:
            return None
        return Score(loss / samples, top1 / samples, top5 / samples, round(samples))

    @tf.function(reduce_retracing=True)
    def _count(self, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return self._workers.run(self._sums, images, labels)

    def _sums(self, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        logits = self._model(normalise(images), training=False)  # (b, S, S, 3) -> (b, C)
        counts = labels >= 0
        known = tf.maximum(labels, 0)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(known, logits)
        best, likeliest = (tf.nn.top_k(logits, min(k, logits.shape[1])).indices for k in (1, 5))
        found = [tf.reduce_any(some == tf.cast(known, tf.int32)[:, None], axis=1) for some in (best, likeliest)]
        columns = [tf.where(counts, value, 0.0) for value in (losses, *(tf.cast(hit, tf.float32) for hit in found))]
        return tf.stack([*(tf.reduce_sum(column) for column in columns), tf.reduce_sum(tf.cast(counts, tf.float32))])
