"""Layers of the Vision Transformer, named as in Google's weight files.

Shape letters: B batch, N tokens, D width, H heads, M width of the MLP.
"""

from __future__ import annotations

from typing import Callable

import tensorflow as tf

# Makes a dropout layer, or a layer that does nothing where the rate is 0.
MakeDropout = Callable[[], tf.keras.layers.Layer]
EPSILON = 1e-6  # of every LayerNorm


class ClassToken(tf.keras.layers.Layer):
    """Puts a learned token before the patches, (B, P, D) -> (B, 1 + P, D)."""

    def build(self, shape: tf.TensorShape) -> None:
        """Make the token, which starts at zero."""
        self.cls = self.add_weight("cls", (1, 1, shape[-1]), initializer="zeros")
        super().build(shape)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Tokens, the class token first."""
        token = tf.cast(self.cls, x.dtype)
        return tf.concat([tf.broadcast_to(token, [tf.shape(x)[0], 1, x.shape[-1]]), x], axis=1)


class Positions(tf.keras.layers.Layer):
    """Adds a learned vector to each token, (B, N, D) -> (B, N, D)."""

    def build(self, shape: tf.TensorShape) -> None:
        """Make the table."""
        start = tf.keras.initializers.RandomNormal(stddev=0.06)
        self.pos_embedding = self.add_weight("pos_embedding", (1, shape[1], shape[2]), initializer=start)
        super().build(shape)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Tokens that know where they stand."""
        return x + tf.cast(self.pos_embedding, x.dtype)


class ExtractToken(tf.keras.layers.Layer):
    """The class token alone, (B, N, D) -> (B, D)."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """First token."""
        return x[:, 0]


class SelfAttention(tf.keras.layers.Layer):
    """Multi-head self-attention, (B, N, D) -> (B, N, D)."""

    def __init__(self, width: int, heads: int, **options: object) -> None:
        super().__init__(**options)
        self.heads = heads
        self.query, self.key, self.value, self.out = (
            tf.keras.layers.Dense(width, name=name) for name in ("query", "key", "value", "out")
        )

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Let every token gather from all others."""
        head_width = x.shape[-1] // self.heads
        # Scaling the queries, which are few, saves a pass over the scores; the head width of all variants is a square.
        q = self._split(self.query(x)) * tf.cast(head_width**-0.5, x.dtype)  # (B, N, D) -> (B, H, N, D/H)
        k, v = self._split(self.key(x)), self._split(self.value(x))
        weights = tf.nn.softmax(tf.matmul(q, k, transpose_b=True))  # (B, H, N, N)
        mixed = tf.transpose(tf.matmul(weights, v), [0, 2, 1, 3])  # (B, H, N, D/H) -> (B, N, H, D/H)
        return self.out(tf.reshape(mixed, tf.shape(x)))

    def _split(self, x: tf.Tensor) -> tf.Tensor:
        tokens, width = x.shape[1:]
        return tf.transpose(tf.reshape(x, [-1, tokens, self.heads, width // self.heads]), [0, 2, 1, 3])


class Mlp(tf.keras.layers.Layer):
    """Two dense layers with the exact (erf) GELU between them, (B, N, D) -> (B, N, M) -> (B, N, D)."""

    def __init__(self, width: int, mlp_width: int, dropout: MakeDropout, **options: object) -> None:
        super().__init__(**options)
        self.dense_0 = tf.keras.layers.Dense(mlp_width, name="Dense_0")
        self.dense_1 = tf.keras.layers.Dense(width, name="Dense_1")
        self.dropout_0, self.dropout_1 = dropout(), dropout()

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Transform each token by itself."""
        x = self.dropout_0(tf.nn.gelu(self.dense_0(x)), training=training)
        return self.dropout_1(self.dense_1(x), training=training)


class EncoderBlock(tf.keras.layers.Layer):
    """Attention, then MLP, each behind a LayerNorm in a residual; (B, N, D) -> (B, N, D)."""

    def __init__(self, width: int, heads: int, mlp_width: int, dropout: MakeDropout, **options: object) -> None:
        super().__init__(**options)
        self.norm_0 = tf.keras.layers.LayerNormalization(epsilon=EPSILON, name="LayerNorm_0")
        self.attention = SelfAttention(width, heads, name="MultiHeadDotProductAttention_1")
        self.dropout = dropout()
        self.norm_2 = tf.keras.layers.LayerNormalization(epsilon=EPSILON, name="LayerNorm_2")
        self.mlp = Mlp(width, mlp_width, dropout, name="MlpBlock_3")

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """One layer of the encoder."""
        x = x + self.dropout(self.attention(self.norm_0(x)), training=training)
        return x + self.mlp(self.norm_2(x), training=training)
