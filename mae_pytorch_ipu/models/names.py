"""Models by name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Dict, Sequence, Union

from models.mae import MAEConfig, MaskedAutoencoder
from models.shapes import nearest
from models.vit import VisionTransformer, ViTConfig

Model = Union[MaskedAutoencoder, VisionTransformer]

_BASE = {"patch_size": 16, "width": 768, "depth": 12, "heads": 12, "mlp_width": 3072}
_LARGE = {"patch_size": 16, "width": 1024, "depth": 24, "heads": 16, "mlp_width": 4096}
_HUGE = {"patch_size": 14, "width": 1280, "depth": 32, "heads": 16, "mlp_width": 5120}
_DECODER = {"decoder_width": 512, "decoder_depth": 8, "decoder_heads": 16, "decoder_mlp_width": 2048}

SIZES: Dict[str, Dict[str, int]] = {
    "mae_vit_base_patch16": {**_BASE, **_DECODER},
    "mae_vit_large_patch16": {**_LARGE, **_DECODER},
    "mae_vit_huge_patch14": {**_HUGE, **_DECODER},
    # A shallow one, to compare the gradients of two implementations with.
    "mae_vit_align_patch16": {**_BASE, "depth": 3, **_DECODER, "decoder_depth": 2},
    "vit_base_patch16": _BASE,
    "vit_large_patch16": _LARGE,
    "vit_huge_patch14": _HUGE,
}
PRETRAINING = tuple(name for name in SIZES if name.startswith("mae_"))
CLASSIFIERS = tuple(name for name in SIZES if not name.startswith("mae_"))


def create_model(name: str, *, image_size: Union[int, Sequence[int]] = 224, **sizes: Any) -> Model:
    """Build a model with fresh weights: a MaskedAutoencoder of PRETRAINING or a VisionTransformer of CLASSIFIERS.

    Args:
        name: a key of SIZES.
        image_size: pixels, one number or (height, width).
        sizes: fields of MAEConfig or ViTConfig to set otherwise than `name` has them.

    Raises:
        ValueError: unknown name or size, or sizes that do not go together.
    """
    if name not in SIZES:
        raise ValueError(f"unknown model {name!r}; {nearest(name, SIZES)}")
    config = MAEConfig if name in PRETRAINING else ViTConfig
    known = [field.name for field in fields(config)]
    for size in sizes:
        if size not in known:
            raise ValueError(f"unknown model size {size!r}; {nearest(size, known)}")
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    values: Dict[str, Any] = {**SIZES[name], "image_size": (height, width), **sizes}
    if name in PRETRAINING:
        return MaskedAutoencoder(MAEConfig(**values))
    return VisionTransformer(ViTConfig(**values))
