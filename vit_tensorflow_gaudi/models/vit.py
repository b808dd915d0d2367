"""Vision Transformer for image classification (Dosovitskiy et al. 2021, arXiv:2010.11929) as a Keras model.

Layers are named as the arrays of Google's weight files. Dropout stands where Google's code has it: after the positions,
the attention's output and both dense layers of the MLP, not on attention probabilities.
Shape letters: B batch, P patches, N = P + 1 tokens, D width, C classes.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import Any, Dict, Optional

import tensorflow as tf

from models.dropout import CountedDropout, DropoutMasks
from models.layers import EPSILON, ClassToken, EncoderBlock, ExtractToken, Positions

layers = tf.keras.layers


@dataclass(frozen=True)
class ViTConfig:
    """Shape and regularisation; image_size and patch_size in pixels, dropout a probability.

    representation adds the dense tanh layer `pre_logits` before the head, which only the ImageNet-21k files hold.
    zero_head starts the head at zero as Google's fine-tuning does, else as Keras does (Glorot). embedding_dropout is
    whether there is a dropout after the positions.
    """

    image_size: int = 384
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_width: int = 3072
    num_classes: int = 1000
    representation: bool = False
    dropout: float = 0.1
    embedding_dropout: bool = True
    zero_head: bool = True

    def __post_init__(self) -> None:
        for name in ("image_size", "patch_size", "width", "depth", "heads", "mlp_width", "num_classes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, not {getattr(self, name)}")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image size {self.image_size} is not a multiple of the patch size {self.patch_size}; "
                "change one of them"
            )
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by {self.heads} heads; change one of them")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is a probability below 1, not {self.dropout}")

    @property
    def tokens(self) -> int:
        """Patches and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1


_LARGE = ViTConfig(width=1024, depth=24, heads=16, mlp_width=4096)
VARIANTS: Dict[str, ViTConfig] = {
    "ViT-B_16": ViTConfig(),
    "ViT-L_16": _LARGE,
    "ViT-B_32": ViTConfig(patch_size=32),
    "ViT-L_32": replace(_LARGE, patch_size=32),
}


def configure(name: str, **changes: Any) -> ViTConfig:
    """The variant `name` with fields of ViTConfig changed.

    Raises:
        ValueError: an unknown name, with the nearest one, or sizes that do not fit together.
    """
    if name not in VARIANTS:
        near = difflib.get_close_matches(name, VARIANTS, 1, 0.0)
        raise ValueError(f"there is no model {name}: did you mean {near[0]}?")
    return replace(VARIANTS[name], **changes)


def create_model(
    name: str = "ViT-B_16", *, config: Optional[ViTConfig] = None, masks: Optional[DropoutMasks] = None, **changes: Any
) -> tf.keras.Model:
    """A model from images (B, S, S, 3) in [-1, 1] to logits (B, C), float32 under every precision policy.

    Args:
        name: of a variant, see `VARIANTS`.
        config: used as it is instead of the variant.
        masks: where dropout masks come from; None for Keras' own dropout.
        changes: fields of ViTConfig, such as image_size, num_classes, representation.

    The configuration is the attribute `vit_config` of the model.

    Raises:
        ValueError: an unknown name, or sizes that do not fit together.
    """
    config = config or configure(name, **changes)

    def dropout() -> tf.keras.layers.Layer:
        return layers.Dropout(config.dropout) if masks is None else CountedDropout(config.dropout, masks)

    size, width = config.image_size, config.width
    images = tf.keras.Input((size, size, 3), name="images")
    x = layers.Conv2D(width, config.patch_size, strides=config.patch_size, name="embedding")(images)
    x = layers.Reshape((config.tokens - 1, width), name="patches")(x)  # (B, rows, columns, D) -> (B, P, D)
    x = ClassToken(name="class_token")(x)  # (B, P, D) -> (B, N, D)
    x = Positions(name="Transformer/posembed_input")(x)
    if config.embedding_dropout:
        x = dropout()(x)
    for number in range(config.depth):
        name_of_block = f"Transformer/encoderblock_{number}"
        x = EncoderBlock(width, config.heads, config.mlp_width, dropout, name=name_of_block)(x)
    x = layers.LayerNormalization(epsilon=EPSILON, name="Transformer/encoder_norm")(x)
    x = ExtractToken(name="ExtractToken")(x)  # (B, N, D) -> (B, D)
    if config.representation:
        x = layers.Dense(width, activation="tanh", name="pre_logits")(x)
    start = "zeros" if config.zero_head else "glorot_uniform"
    logits = layers.Dense(config.num_classes, kernel_initializer=start, dtype="float32", name="head")(x)
    model = tf.keras.Model(images, logits, name=name.lower().replace("_", ""))
    model.vit_config = config
    return model


def named_variables(model: tf.keras.Model) -> Dict[str, tf.Variable]:
    """Name of the array in Google's weight files → variable, in the order of the layers."""
    config: ViTConfig = model.vit_config
    found = dict(_weights("embedding", model.get_layer("embedding")))
    found["cls"] = model.get_layer("class_token").cls
    found["Transformer/posembed_input/pos_embedding"] = model.get_layer("Transformer/posembed_input").pos_embedding
    for number in range(config.depth):
        name = f"Transformer/encoderblock_{number}"
        block = model.get_layer(name)
        found.update(_weights(f"{name}/LayerNorm_0", block.norm_0))
        for part in ("query", "key", "value", "out"):
            found.update(_weights(f"{name}/MultiHeadDotProductAttention_1/{part}", getattr(block.attention, part)))
        found.update(_weights(f"{name}/LayerNorm_2", block.norm_2))
        for part in ("dense_0", "dense_1"):
            found.update(_weights(f"{name}/MlpBlock_3/{part.capitalize()}", getattr(block.mlp, part)))
    for name in ("Transformer/encoder_norm", *(["pre_logits"] if config.representation else []), "head"):
        found.update(_weights(name, model.get_layer(name)))
    return found


def _weights(name: str, layer: tf.keras.layers.Layer) -> Dict[str, tf.Variable]:
    if isinstance(layer, layers.LayerNormalization):
        return {f"{name}/scale": layer.gamma, f"{name}/bias": layer.beta}
    return {f"{name}/kernel": layer.kernel, f"{name}/bias": layer.bias}
