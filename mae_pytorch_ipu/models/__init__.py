"""Masked autoencoders and the classifiers that they are fine-tuned to, by name."""

from models.mae import MAEConfig, MaskedAutoencoder
from models.names import CLASSIFIERS, PRETRAINING, SIZES, Model, create_model
from models.vit import VisionTransformer, ViTConfig

__all__ = [
    "CLASSIFIERS",
    "PRETRAINING",
    "SIZES",
    "MAEConfig",
    "MaskedAutoencoder",
    "Model",
    "ViTConfig",
    "VisionTransformer",
    "create_model",
]
