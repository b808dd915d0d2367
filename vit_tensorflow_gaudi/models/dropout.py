"""Dropout whose masks are a function of (seed, update, sample, layer): the same for any number of workers.

Keras' dropout draws from a stream that goes on, so that a mask depends on what was drawn before, on the size of the
micro-batch and on the worker. Here Philox's counter (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3")
is set to where a sample's draws stand among those of the whole update: workers and micro-batches each get their part of
one mask, and a resumed run needs nothing but its place. With half the bits of Keras' draws it is also faster.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

PHILOX = 1  # in the numbering of TensorFlow's random operators
_DRAWS_PER_BLOCK = 8  # a Philox block is four words of 32 bits; a draw takes 16
_LAYERS = 4096


class DropoutMasks:
    """Source of the masks of one model; make it outside of a distribution strategy's scope.

    Args:
        seed: of the run, any integer.
    """

    def __init__(self, seed: int) -> None:
        self._key = np.array([seed % 2**64], np.uint64)
        self._place = tf.Variable([0, 0], dtype=tf.int64, trainable=False, name="dropout_place")
        self._layers = 0

    def set_place(self, update: int, first_sample: int) -> None:
        """Say which update is computed and where in its global batch this micro-batch of this worker begins."""
        self._place.assign([update, first_sample])

    def next_layer(self) -> int:
        """A number for another dropout layer."""
        self._layers += 1
        if self._layers >= _LAYERS:
            raise ValueError(f"more than {_LAYERS} dropout layers")
        return self._layers

    def draws(self, shape: tf.Tensor, layer: int) -> tf.Tensor:
        """Uniform uint16 of `shape`, whose first axis is samples."""
        samples, size = shape[0], tf.reduce_prod(shape[1:])
        blocks = -(-size // _DRAWS_PER_BLOCK)  # per sample, whole ones, so that every sample begins with one
        update, first = tf.unstack(self._place)
        counter = tf.stack([first * tf.cast(blocks, tf.int64), update * _LAYERS + layer])
        words = tf.raw_ops.StatelessRandomUniformFullIntV2(
            shape=[samples, 4 * blocks],
            key=self._key,
            counter=tf.bitcast(counter, tf.uint64),
            alg=PHILOX,
            dtype=tf.uint32,
        )
        halves = tf.reshape(tf.bitcast(words, tf.uint16), [samples, _DRAWS_PER_BLOCK * blocks])
        return tf.reshape(halves[:, :size], shape)


class CountedDropout(tf.keras.layers.Layer):
    """Sets each value to 0 with probability `rate`, a multiple of 2^-16, and scales up the rest; training only."""

    def __init__(self, rate: float, masks: DropoutMasks, **options: object) -> None:
        super().__init__(**options)
        self._threshold = round(rate * 2**16)
        self._masks, self._number = masks, masks.next_layer()

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """`x` of any shape with the samples first."""
        if not training or not self._threshold:
            return x
        kept = self._masks.draws(tf.shape(x), self._number) >= tf.constant(self._threshold, tf.uint16)
        return x * (tf.cast(kept, x.dtype) * tf.cast(1 / (1 - self._threshold / 2**16), x.dtype))
