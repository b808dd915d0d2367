"""Random weights in the layout of Google's .npz files, written down array by array from its description."""

from typing import Dict, Sequence, Tuple

import numpy as np

Arrays = Dict[str, np.ndarray]


def google_arrays(
    *,
    width: int = 24,
    heads: int = 3,
    mlp_width: int = 40,
    depth: int = 2,
    patch_size: int = 4,
    tokens: int = 17,
    classes: int = 5,
    stages: Sequence[int] = (),
    pre_logits: bool = False,
    seed: int = 0,
) -> Arrays:
    """All arrays of a model: 16 · depth + 8, two for pre_logits, and with stages those of a ResNet 32 wide."""
    channels = 4 * 32 * 2 ** (len(stages) - 1) if stages else 3
    shapes: Dict[str, Tuple[int, ...]] = {
        "cls": (1, 1, width),
        "embedding/kernel": (patch_size, patch_size, channels, width),
        "embedding/bias": (width,),
        "Transformer/posembed_input/pos_embedding": (1, tokens, width),
        "Transformer/encoder_norm/scale": (width,),
        "Transformer/encoder_norm/bias": (width,),
        "head/kernel": (width, classes),
        "head/bias": (classes,),
    }
    if pre_logits:
        shapes.update({"pre_logits/kernel": (width, width), "pre_logits/bias": (width,)})
    for index in range(depth):
        block = f"Transformer/encoderblock_{index}/"
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            shapes.update({f"{block}{norm}/scale": (width,), f"{block}{norm}/bias": (width,)})
        attention = f"{block}MultiHeadDotProductAttention_1/"
        for part in ("query", "key", "value"):
            shapes[f"{attention}{part}/kernel"] = (width, heads, width // heads)
            shapes[f"{attention}{part}/bias"] = (heads, width // heads)
        shapes.update({f"{attention}out/kernel": (heads, width // heads, width), f"{attention}out/bias": (width,)})
        mlp = f"{block}MlpBlock_3/"
        shapes.update({f"{mlp}Dense_0/kernel": (width, mlp_width), f"{mlp}Dense_0/bias": (mlp_width,)})
        shapes.update({f"{mlp}Dense_1/kernel": (mlp_width, width), f"{mlp}Dense_1/bias": (width,)})
    shapes.update(_resnet_shapes(stages))
    draw = np.random.default_rng(seed)
    return {name: _random(draw, name, shape) for name, shape in shapes.items()}


def _resnet_shapes(stages: Sequence[int]) -> Dict[str, Tuple[int, ...]]:
    if not stages:
        return {}
    shapes: Dict[str, Tuple[int, ...]] = {"conv_root/kernel": (7, 7, 3, 32)}
    norms = {"gn_root": 32}
    channels = 32
    for stage, units in enumerate(stages):
        inner = 32 * 2**stage
        for unit in range(units):
            place = f"block{stage + 1}/unit{unit + 1}/"
            shapes[f"{place}conv1/kernel"] = (1, 1, channels, inner)
            shapes[f"{place}conv2/kernel"] = (3, 3, inner, inner)
            shapes[f"{place}conv3/kernel"] = (1, 1, inner, 4 * inner)
            norms.update({f"{place}gn1": inner, f"{place}gn2": inner, f"{place}gn3": 4 * inner})
            if not unit:
                shapes[f"{place}conv_proj/kernel"] = (1, 1, channels, 4 * inner)
                norms[f"{place}gn_proj"] = 4 * inner
            channels = 4 * inner
    for name, size in norms.items():  # some files have GroupNorm's arrays with axes for the image
        shapes.update({f"{name}/scale": (1, 1, 1, size), f"{name}/bias": (size,)})
    return shapes


def _random(draw: np.random.Generator, name: str, shape: Tuple[int, ...]) -> np.ndarray:
    """Values that neither explode nor vanish on the way, and scales that are no ones."""
    if name.endswith("scale"):
        values = draw.uniform(0.5, 1.5, shape)
    elif name.endswith("kernel"):
        inputs = shape[0] if "query" in name or "key" in name or "value" in name else int(np.prod(shape[:-1]))
        values = draw.standard_normal(shape) / np.sqrt(inputs)
    else:
        values = 0.5 * draw.standard_normal(shape)
    return values.astype(np.float32)
