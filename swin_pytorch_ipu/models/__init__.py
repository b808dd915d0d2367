"""Swin Transformers by name."""

from models.swin import SIZES, SwinTransformer, create_model
from models.swin_config import SwinConfig

__all__ = ["SIZES", "SwinConfig", "SwinTransformer", "create_model"]
