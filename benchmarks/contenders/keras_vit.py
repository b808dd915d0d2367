"""Keras ViT-B/16: ours through the app's trainer and evaluation, and the model written in plain Keras."""

from __future__ import annotations

import math
import os
import sys
from typing import Any, Callable, Tuple

from benchmarks.interleaved import Built, Settings
from benchmarks.machine import ROOT

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
import tensorflow as tf

Batch = Tuple[Any, Any]
CLASSES, WIDTH, DEPTH, HEADS, MLP, PATCH, DROPOUT = 1000, 768, 12, 12, 3072, 16, 0.1
RATE, MOMENTUM, CLIP = 0.01, 0.9, 1.0  # of the document's SGD
MATMUL_SIZE, PRODUCTS = 2048, 8  # rows and columns, products in a step


def _prepare(settings: Settings) -> Batch:
    """Threads, precision, and a batch on the device."""
    tf.config.threading.set_intra_op_parallelism_threads(settings.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.keras.mixed_precision.set_global_policy({"bf16": "mixed_bfloat16", "fp32": "float32"}[settings.dtype])
    shape = (settings.batch_size, settings.image_size, settings.image_size, 3)
    images = tf.cast(tf.random.uniform(shape, 0, 256, tf.int32), tf.uint8)
    return images, tf.random.uniform((settings.batch_size,), 0, CLASSES, tf.int32)


def ours(settings: Settings) -> Built:
    """An update or an evaluation as the app makes it."""
    batch = _prepare(settings)
    os.chdir(ROOT / "vit_tensorflow_gaudi")
    sys.path.insert(0, os.getcwd())
    import distributed
    from evaluation import Evaluator
    from models import create_model
    from models.dropout import DropoutMasks
    from optimizers import make_optimizer
    from training import Trainer

    masks = DropoutMasks(0)
    model = create_model("ViT-B_16", image_size=settings.image_size, num_classes=CLASSES, masks=masks)
    if settings.mode == "inference":
        evaluator = Evaluator(model, distributed.alone())
        return _built(lambda: evaluator([batch]), model, settings)
    optimizer, rate = make_optimizer("sgd")
    trainer = Trainer(model, optimizer, rate, distributed.alone(), clip_norm=CLIP, masks=masks)
    return _built(lambda: trainer.measured(trainer.update([batch], number=0, rate=RATE)[0]), model, settings)


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


def plain_keras(settings: Settings) -> Built:
    """Keras' own layers and train function. XLA makes it no faster on a CPU: it takes minutes and twice the time."""
    images, labels = _prepare(settings)
    batch = tf.cast(images, tf.float32) / 127.5 - 1.0, labels
    model = _plain_model(settings.image_size)
    optimizer = tf.keras.optimizers.SGD(RATE, momentum=MOMENTUM, global_clipnorm=CLIP)
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    data = iter(tf.data.Dataset.from_tensors(batch).repeat())
    if settings.mode == "inference":
        predict = model.make_predict_function()
        return _built(lambda: predict(data).numpy(), model, settings)
    step = model.make_train_function()
    return _built(lambda: step(data)["loss"].numpy(), model, settings)


def _plain_model(side: int) -> Any:
    """ViT-B/16 of Keras' own layers, MultiHeadAttention among them."""
    layers = tf.keras.layers
    images = tf.keras.Input((side, side, 3))
    x = layers.Conv2D(WIDTH, PATCH, PATCH)(images)
    x = layers.Dropout(DROPOUT)(_Tokens()(layers.Reshape(((side // PATCH) ** 2, WIDTH))(x)))
    for _ in range(DEPTH):
        h = layers.LayerNormalization(epsilon=1e-6)(x)
        x = x + layers.Dropout(DROPOUT)(layers.MultiHeadAttention(HEADS, WIDTH // HEADS)(h, h))
        h = layers.Dense(MLP, activation="gelu")(layers.LayerNormalization(epsilon=1e-6)(x))
        x = x + layers.Dropout(DROPOUT)(layers.Dense(WIDTH)(layers.Dropout(DROPOUT)(h)))
    logits = layers.Dense(CLASSES, dtype="float32")(layers.LayerNormalization(epsilon=1e-6)(x)[:, 0])
    return tf.keras.Model(images, logits)


def matmul(settings: Settings) -> Built:
    """Products of large square matrices: the peak that the contenders are held against."""
    _prepare(settings)
    dtype = {"bf16": tf.bfloat16, "fp32": tf.float32}[settings.dtype]
    a, b = (tf.cast(tf.random.normal((MATMUL_SIZE, MATMUL_SIZE)), dtype) for _ in range(2))

    def step() -> Any:
        return [tf.matmul(a, b) for _ in range(PRODUCTS)][-1][0, 0].numpy()

    return Built(step, lambda: 2 * MATMUL_SIZE**3 * PRODUCTS)


def _built(step: Callable[[], Any], model: Any, settings: Settings) -> Built:
    """A contender whose model's graph, in training with that of its gradients, is counted."""
    training, side = settings.mode == "train", settings.image_size

    @tf.function
    def passes(images: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            logits = model(images, training=training)
        return tape.gradient(logits, model.trainable_variables) if training else logits

    def flops() -> int:
        shape = tf.TensorSpec((settings.batch_size, side, side, 3))
        return sum(_flops(operation) for operation in passes.get_concrete_function(shape).graph.get_operations())

    return Built(step, flops, model.count_params())


def _flops(operation: Any) -> int:
    """Of a matrix product or convolution: two for each multiplication with addition."""
    kind, shapes = operation.type, [list(tensor.shape) for tensor in (*operation.inputs, *operation.outputs)]
    if kind in ("MatMul", "BatchMatMulV2"):
        transposed = operation.get_attr("transpose_a" if kind == "MatMul" else "adj_x")
        return 2 * math.prod(shapes[-1]) * shapes[0][-2 if transposed else -1]
    if kind == "Einsum":
        letters = operation.get_attr("equation").decode().split("->")[0].split(",")
        sizes = {letter: size for word, shape in zip(letters, shapes) for letter, size in zip(word, shape)}
        return 2 * math.prod(sizes.values())
    if kind == "Conv2D":
        return 2 * math.prod(shapes[-1]) * math.prod(shapes[1][:3])
    if kind == "Conv2DBackpropFilter":
        return 2 * math.prod(shapes[2]) * math.prod(shapes[-1][:3])
    return 0


CONTENDERS = {"ours": ours, "plain_keras": plain_keras, "matmul": matmul}
