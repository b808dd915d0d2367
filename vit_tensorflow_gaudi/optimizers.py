"""The update rules, with the document's settings."""

from __future__ import annotations

import warnings
from typing import Sequence, Tuple

import tensorflow as tf

from errors import UserError

# Keras' older optimizers update a variable in one fused kernel, where the newer ones pass over it five times on a
# CPU; they are also what TensorFlow 2.8 has. From 2.11 on they have a namespace of their own.
_fused = getattr(tf.keras.optimizers, "legacy", tf.keras.optimizers)

_VECTORS = ["bias", "gamma", "beta", "cls", "pos_embedding"]


def make_optimizer(name: str, weight_decay: float = 0.0) -> Tuple[tf.keras.optimizers.Optimizer, tf.Variable]:
    """The optimizer, which does not clip, and the variable from which it reads its learning rate at every update.

    Args:
        name: sgd (momentum 0.9), adam (epsilon 0.01), rmsprop (rho 0.9, epsilon 0.01), adamw or lamb.
        weight_decay: of adamw and lamb, not on biases, LayerNorm, class token and positions.

    Raises:
        UserError: lamb without tensorflow-addons.
    """
    if name == "adamw":
        adamw = tf.keras.optimizers.AdamW(0.0, weight_decay=weight_decay)
        adamw.exclude_from_weight_decay(var_names=_VECTORS)
        return adamw, adamw.learning_rate
    variable = tf.Variable(0.0, trainable=False, name="learning_rate")

    def rate() -> tf.Tensor:
        return variable.read_value()

    if name == "sgd":
        return _fused.SGD(rate, momentum=0.9), variable
    if name == "adam":
        return _fused.Adam(rate, epsilon=1e-2), variable
    if name == "rmsprop":
        return _fused.RMSprop(rate, rho=0.9, epsilon=1e-2), variable
    return _lamb(rate, weight_decay), variable


def make_slots(optimizer: tf.keras.optimizers.Optimizer, variables: Sequence[tf.Variable]) -> None:
    """Make the optimizer's variables now: what is restored later, when the first update needs it, is missing before."""
    if hasattr(optimizer, "build"):
        optimizer.build(variables)
    else:
        optimizer._create_all_weights(variables)


def _lamb(rate: object, weight_decay: float) -> tf.keras.optimizers.Optimizer:
    """The one thing here that Keras 2.15 has no equal of."""
    try:
        warnings.filterwarnings("ignore", message=r"\s*TensorFlow Addons \(TFA\) has ended", category=UserWarning)
        from tensorflow_addons.optimizers import LAMB
    except ImportError as error:
        raise UserError(
            f"--optimizer lamb needs tensorflow-addons ({error}): pip install tensorflow-addons==0.23.0"
        ) from error
    return LAMB(
        rate,
        weight_decay=weight_decay,
        exclude_from_weight_decay=_VECTORS,
        # A step in proportion to the norm leaves what starts at zero there.
        exclude_from_layer_adaptation=[*_VECTORS, "head"],
    )
