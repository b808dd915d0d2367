"""Vision Transformers by name."""

from models.vit import SIZES, VisionTransformer, ViTConfig, create_model

__all__ = ["SIZES", "ViTConfig", "VisionTransformer", "create_model"]
