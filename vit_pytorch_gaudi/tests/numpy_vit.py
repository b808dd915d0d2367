"""A Vision Transformer and its ResNet in float64 NumPy, computed from Google's arrays by the definitions."""

import math
from typing import Dict

import numpy as np

Arrays = Dict[str, np.ndarray]


def logits(arrays: Arrays, images: np.ndarray) -> np.ndarray:
    """Logits (B, C) of images (B, height, width, 3) in [-1, 1]."""
    arrays = {name: array.astype(np.float64) for name, array in arrays.items()}
    x = images.astype(np.float64)
    if "conv_root/kernel" in arrays:
        x = resnet(arrays, x)
    kernel = arrays["embedding/kernel"]
    x = convolution(x, kernel, kernel.shape[0]) + arrays["embedding/bias"]
    x = x.reshape(len(x), -1, x.shape[-1])
    x = np.concatenate([np.repeat(arrays["cls"], len(x), 0), x], axis=1)
    x = x + arrays["Transformer/posembed_input/pos_embedding"]
    for block in sorted({name.split("/")[1] for name in arrays if "encoderblock_" in name}):
        x = encoder_block(arrays, f"Transformer/{block}/", x)
    x = layer_norm(arrays, "Transformer/encoder_norm", x)[:, 0]
    return x @ arrays["head/kernel"] + arrays["head/bias"]


def encoder_block(arrays: Arrays, block: str, x: np.ndarray) -> np.ndarray:
    inner = layer_norm(arrays, f"{block}LayerNorm_0", x)
    parts = {}
    for part in ("query", "key", "value", "out"):
        for kind in ("kernel", "bias"):
            parts[part, kind] = arrays[f"{block}MultiHeadDotProductAttention_1/{part}/{kind}"]
    q, k, v = (
        np.einsum("bnd,dhe->bhne", inner, parts[part, "kernel"]) + parts[part, "bias"][:, None]
        for part in ("query", "key", "value")
    )
    scores = np.exp(np.einsum("bhne,bhme->bhnm", q, k) / math.sqrt(q.shape[-1]))
    gathered = np.einsum("bhnm,bhme->bnhe", scores / scores.sum(-1, keepdims=True), v)
    x = x + np.einsum("bnhe,hed->bnd", gathered, parts["out", "kernel"]) + parts["out", "bias"]
    inner = layer_norm(arrays, f"{block}LayerNorm_2", x)
    mlp = f"{block}MlpBlock_3/Dense_"
    hidden = inner @ arrays[f"{mlp}0/kernel"] + arrays[f"{mlp}0/bias"]
    hidden = hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))) / 2
    return x + hidden @ arrays[f"{mlp}1/kernel"] + arrays[f"{mlp}1/bias"]


def layer_norm(arrays: Arrays, name: str, x: np.ndarray) -> np.ndarray:
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * arrays[f"{name}/scale"] + arrays[f"{name}/bias"]


def resnet(arrays: Arrays, x: np.ndarray) -> np.ndarray:
    """Features of images, (B, height, width, 3) -> (B, height / stride, width / stride, channels)."""
    x = relu(group_norm(arrays, "gn_root", std_convolution(arrays, "conv_root", x, 2)))
    x = windows(x, 3, 2, fill=-math.inf).max(axis=(3, 4))
    for stage in range(1, 10):
        for unit in range(1, 10):
            place = f"block{stage}/unit{unit}/"
            if f"{place}conv1/kernel" in arrays:
                x = residual_unit(arrays, place, x, 2 if stage > 1 and unit == 1 else 1)
    return x


def residual_unit(arrays: Arrays, place: str, x: np.ndarray, stride: int) -> np.ndarray:
    y = relu(group_norm(arrays, f"{place}gn1", std_convolution(arrays, f"{place}conv1", x)))
    y = relu(group_norm(arrays, f"{place}gn2", std_convolution(arrays, f"{place}conv2", y, stride)))
    y = group_norm(arrays, f"{place}gn3", std_convolution(arrays, f"{place}conv3", y))
    if f"{place}conv_proj/kernel" in arrays:
        x = group_norm(arrays, f"{place}gn_proj", std_convolution(arrays, f"{place}conv_proj", x, stride))
    return relu(x + y)


def std_convolution(arrays: Arrays, name: str, x: np.ndarray, stride: int = 1) -> np.ndarray:
    """Convolution by filters of mean 0 and standard deviation 1."""
    kernel = arrays[f"{name}/kernel"]
    return convolution(x, (kernel - kernel.mean((0, 1, 2))) / (kernel.std((0, 1, 2)) + 1e-5), stride)


def convolution(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """SAME-padded convolution as one product with all windows; kernel (height, width, in, out)."""
    return np.tensordot(windows(x, kernel.shape[0], stride), kernel, axes=3)


def windows(x: np.ndarray, size: int, stride: int, fill: float = 0.0) -> np.ndarray:
    """Windows of SAME padding, (B, h, w, C) -> (B, ceil(h / stride), ceil(w / stride), size, size, C)."""
    margins = [(0, 0)]
    for side in x.shape[1:3]:
        needed = max((math.ceil(side / stride) - 1) * stride + size - side, 0)
        margins.append((needed // 2, needed - needed // 2))
    padded = np.pad(x, [*margins, (0, 0)], constant_values=fill)
    view = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))[:, ::stride, ::stride]
    return np.moveaxis(view, 3, 5)


def group_norm(arrays: Arrays, name: str, x: np.ndarray) -> np.ndarray:
    """Each of 32 groups of channels of an image normalised with its own mean and variance."""
    groups = x.reshape(len(x), -1, 32, x.shape[-1] // 32)
    mean, variance = groups.mean((1, 3), keepdims=True), groups.var((1, 3), keepdims=True)
    normalised = ((groups - mean) / np.sqrt(variance + 1e-6)).reshape(x.shape)
    return normalised * arrays[f"{name}/scale"].reshape(-1) + arrays[f"{name}/bias"].reshape(-1)


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)
