"""Keras ViT-B/16 training in bfloat16: ours through the app's trainer, and the model written in plain Keras."""

from __future__ import annotations

import os
import sys
from typing import Any, Callable, Tuple

from benchmarks.side_by_side import ROOT, Settings

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
import tensorflow as tf

Step = Callable[[], Any]
CONTENDERS = ["ours", "plain_keras"]
CLASSES, WIDTH, DEPTH, HEADS, MLP, PATCH, DROPOUT = 1000, 768, 12, 12, 3072, 16, 0.1
RATE, MOMENTUM, CLIP = 0.01, 0.9, 1.0  # of the document's SGD


def _prepare(settings: Settings) -> Tuple[Any, Any]:
    """Threads, precision, and a batch on the device."""
    tf.config.threading.set_intra_op_parallelism_threads(settings.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    side = settings.image_size
    images = tf.random.uniform((settings.batch_size, side, side, 3), -1, 1)
    return images, tf.random.uniform((settings.batch_size,), 0, CLASSES, tf.int32)


def ours(settings: Settings) -> Step:
    """An update as the app makes it."""
    batch = _prepare(settings)
    os.chdir(ROOT / "vit_tensorflow_gaudi")
    sys.path.insert(0, os.getcwd())
    import distributed
    from models import create_model
    from models.dropout import DropoutMasks
    from optimizers import make_optimizer
    from training import Trainer

    masks = DropoutMasks(0)
    model = create_model("ViT-B_16", image_size=settings.image_size, num_classes=CLASSES, masks=masks)
    optimizer, rate = make_optimizer("sgd")
    trainer = Trainer(model, optimizer, rate, distributed.alone(), clip_norm=CLIP, masks=masks)
    return lambda: trainer.measured(trainer.update([batch], number=0, rate=RATE)[0])


class _Tokens(tf.keras.layers.Layer):
    """A class token in front of the patches, and positions."""

    def build(self, shape: Any) -> None:
        """Make both."""
        self.token = self.add_weight("token", (1, 1, WIDTH))
        self.positions = self.add_weight("positions", (1, shape[1] + 1, WIDTH))

    def call(self, x: Any) -> Any:
        """(B, P, D) -> (B, 1 + P, D)."""
        token = tf.repeat(tf.cast(self.token, x.dtype), tf.shape(x)[0], axis=0)
        return tf.concat([token, x], axis=1) + tf.cast(self.positions, x.dtype)


def plain_keras(settings: Settings) -> Step:
    """Keras' own MultiHeadAttention and train function."""
    batch = _prepare(settings)
    layers, side = tf.keras.layers, settings.image_size
    images = tf.keras.Input((side, side, 3))
    x = layers.Conv2D(WIDTH, PATCH, PATCH)(images)
    x = layers.Dropout(DROPOUT)(_Tokens()(layers.Reshape(((side // PATCH) ** 2, WIDTH))(x)))
    for _ in range(DEPTH):
        h = layers.LayerNormalization(epsilon=1e-6)(x)
        x = x + layers.Dropout(DROPOUT)(layers.MultiHeadAttention(HEADS, WIDTH // HEADS)(h, h))
        h = layers.Dense(MLP, activation="gelu")(layers.LayerNormalization(epsilon=1e-6)(x))
        x = x + layers.Dropout(DROPOUT)(layers.Dense(WIDTH)(layers.Dropout(DROPOUT)(h)))
    logits = layers.Dense(CLASSES, dtype="float32")(layers.LayerNormalization(epsilon=1e-6)(x)[:, 0])
    model = tf.keras.Model(images, logits)
    optimizer = tf.keras.optimizers.SGD(RATE, momentum=MOMENTUM, global_clipnorm=CLIP)
    model.compile(optimizer, tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    step, data = model.make_train_function(), iter(tf.data.Dataset.from_tensors(batch).repeat())
    return lambda: step(data)["loss"].numpy()
