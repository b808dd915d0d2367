"""An independent ViT in NumPy, in double precision: written from the paper and the arrays of Google's files alone."""

from __future__ import annotations

from math import erf

import numpy as np

_erf = np.vectorize(erf)


def norm(x, scale, bias, epsilon=1e-6):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * scale + bias


def forward(arrays, images):
    """Images (B, S, S, 3) in [-1, 1] -> logits (B, C); everything follows from the arrays' names and shapes."""
    p = {name: array.astype(np.float64) for name, array in arrays.items()}
    patch, width = p["embedding/kernel"].shape[0], p["cls"].shape[-1]
    rows = images.shape[1] // patch
    tiles = images.astype(np.float64).reshape(-1, rows, patch, rows, patch, 3)
    x = np.einsum("brycxi,yxid->brcd", tiles, p["embedding/kernel"], optimize=True) + p["embedding/bias"]
    x = x.reshape(len(images), rows * rows, width)
    x = np.concatenate([np.broadcast_to(p["cls"], (len(images), 1, width)), x], axis=1)
    x = x + p["Transformer/posembed_input/pos_embedding"]
    block = 0
    while f"Transformer/encoderblock_{block}/LayerNorm_0/scale" in p:
        part = {k.split(f"encoderblock_{block}/")[1]: v for k, v in p.items() if f"/encoderblock_{block}/" in k}
        y = norm(x, part["LayerNorm_0/scale"], part["LayerNorm_0/bias"])
        attention = "MultiHeadDotProductAttention_1"
        q, k, v = (
            np.einsum("bnd,dhe->bhne", y, part[f"{attention}/{name}/kernel"], optimize=True)
            + part[f"{attention}/{name}/bias"][:, None]
            for name in ("query", "key", "value")
        )
        scores = np.einsum("bhne,bhme->bhnm", q, k, optimize=True) / np.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mixed = np.einsum("bhnm,bhme->bnhe", weights, v, optimize=True)
        x = x + np.einsum("bnhe,hed->bnd", mixed, part[f"{attention}/out/kernel"], optimize=True)
        x = x + part[f"{attention}/out/bias"]
        y = norm(x, part["LayerNorm_2/scale"], part["LayerNorm_2/bias"])
        y = y @ part["MlpBlock_3/Dense_0/kernel"] + part["MlpBlock_3/Dense_0/bias"]
        y = y * 0.5 * (1 + _erf(y / np.sqrt(2)))
        x = x + y @ part["MlpBlock_3/Dense_1/kernel"] + part["MlpBlock_3/Dense_1/bias"]
        block += 1
    x = norm(x, p["Transformer/encoder_norm/scale"], p["Transformer/encoder_norm/bias"])[:, 0]
    if "pre_logits/kernel" in p:
        x = np.tanh(x @ p["pre_logits/kernel"] + p["pre_logits/bias"])
    return x @ p["head/kernel"] + p["head/bias"]


def random_arrays(*, tokens, patch=16, width=32, heads=2, depth=2, mlp=48, classes=10, representation=False, seed=0):
    """Random arrays with the names and shapes of Google's files."""
    draw = np.random.default_rng(seed)

    def normal(*shape, around=0.0, scale=0.1):
        return (around + scale * draw.standard_normal(shape)).astype(np.float32)

    arrays = {
        "cls": normal(1, 1, width),
        "embedding/kernel": normal(patch, patch, 3, width, scale=0.05),
        "embedding/bias": normal(width),
        "Transformer/posembed_input/pos_embedding": normal(1, tokens, width),
        "Transformer/encoder_norm/scale": normal(width, around=1),
        "Transformer/encoder_norm/bias": normal(width),
        "head/kernel": normal(width, classes),
        "head/bias": normal(classes),
    }
    if representation:
        arrays.update({"pre_logits/kernel": normal(width, width), "pre_logits/bias": normal(width)})
    for number in range(depth):
        name, part = f"Transformer/encoderblock_{number}", "MultiHeadDotProductAttention_1"
        for layer in ("LayerNorm_0", "LayerNorm_2"):
            arrays[f"{name}/{layer}/scale"] = normal(width, around=1)
            arrays[f"{name}/{layer}/bias"] = normal(width)
        for layer in ("query", "key", "value"):
            arrays[f"{name}/{part}/{layer}/kernel"] = normal(width, heads, width // heads, scale=width**-0.5)
            arrays[f"{name}/{part}/{layer}/bias"] = normal(heads, width // heads)
        arrays[f"{name}/{part}/out/kernel"] = normal(heads, width // heads, width, scale=width**-0.5)
        arrays[f"{name}/{part}/out/bias"] = normal(width)
        arrays[f"{name}/MlpBlock_3/Dense_0/kernel"] = normal(width, mlp, scale=width**-0.5)
        arrays[f"{name}/MlpBlock_3/Dense_0/bias"] = normal(mlp)
        arrays[f"{name}/MlpBlock_3/Dense_1/kernel"] = normal(mlp, width, scale=mlp**-0.5)
        arrays[f"{name}/MlpBlock_3/Dense_1/bias"] = normal(width)
    return arrays
