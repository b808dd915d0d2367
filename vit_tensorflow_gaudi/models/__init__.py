"""The Vision Transformer in Keras."""

from models.vit import VARIANTS, ViTConfig, create_model, named_variables

__all__ = ["VARIANTS", "ViTConfig", "create_model", "named_variables"]
