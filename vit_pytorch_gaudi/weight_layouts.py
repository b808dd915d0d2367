"""Names and shapes of ViT weights in the layouts of public checkpoints, and their translation to models.vit's.

In the tables `*` stands for a block's number, and names go without a final `weight` or `bias`.
"""

from __future__ import annotations

import re
from typing import Dict, Iterable, Optional, Tuple

from torch import Tensor

from weight_tensors import PARTS, State, joined, parted, translated

# Our name → the layout's. Slashes in Google's names are written as dots, its kernels and scales as weights.
_HUGGING_FACE = {
    "embeddings.class_token": "embeddings.cls_token",
    "embeddings.positions": "embeddings.position_embeddings",
    "embeddings.patch": "embeddings.patch_embeddings.projection",
    "blocks.*.norm1": "encoder.layer.*.layernorm_before",
    "blocks.*.attention.query": "encoder.layer.*.attention.attention.query",
    "blocks.*.attention.key": "encoder.layer.*.attention.attention.key",
    "blocks.*.attention.value": "encoder.layer.*.attention.attention.value",
    "blocks.*.attention.proj": "encoder.layer.*.attention.output.dense",
    "blocks.*.norm2": "encoder.layer.*.layernorm_after",
    "blocks.*.mlp.fc1": "encoder.layer.*.intermediate.dense",
    "blocks.*.mlp.fc2": "encoder.layer.*.output.dense",
    "norm": "layernorm",
    "head": "classifier",
}
_TIMM = {
    "embeddings.class_token": "cls_token",
    "embeddings.positions": "pos_embed",
    "embeddings.patch": "patch_embed.proj",
    "blocks.*.norm1": "blocks.*.norm1",
    "blocks.*.attention.qkv": "blocks.*.attn.qkv",
    "blocks.*.attention.proj": "blocks.*.attn.proj",
    "blocks.*.norm2": "blocks.*.norm2",
    "blocks.*.mlp.fc1": "blocks.*.mlp.fc1",
    "blocks.*.mlp.fc2": "blocks.*.mlp.fc2",
    "norm": "norm",
    "head": "head",
}
_HABANA = {
    "embeddings.class_token": "embeddings.cls_token",
    "embeddings.positions": "embeddings.position_embeddings",
    "embeddings.patch": "embeddings.patch_embeddings",
    "blocks.*.norm1": "encoder.layer.*.attention_norm",
    "blocks.*.attention.query": "encoder.layer.*.attn.query",
    "blocks.*.attention.key": "encoder.layer.*.attn.key",
    "blocks.*.attention.value": "encoder.layer.*.attn.value",
    "blocks.*.attention.proj": "encoder.layer.*.attn.out",
    "blocks.*.norm2": "encoder.layer.*.ffn_norm",
    "blocks.*.mlp.fc1": "encoder.layer.*.ffn.fc1",
    "blocks.*.mlp.fc2": "encoder.layer.*.ffn.fc2",
    "norm": "encoder.encoder_norm",
    "head": "head",
}
_GOOGLE = {
    "embeddings.class_token": "cls",
    "embeddings.positions": "Transformer.posembed_input.pos_embedding",
    "embeddings.patch": "embedding",
    "blocks.*.norm1": "Transformer.encoderblock_*.LayerNorm_0",
    "blocks.*.attention.query": "Transformer.encoderblock_*.MultiHeadDotProductAttention_1.query",
    "blocks.*.attention.key": "Transformer.encoderblock_*.MultiHeadDotProductAttention_1.key",
    "blocks.*.attention.value": "Transformer.encoderblock_*.MultiHeadDotProductAttention_1.value",
    "blocks.*.attention.proj": "Transformer.encoderblock_*.MultiHeadDotProductAttention_1.out",
    "blocks.*.norm2": "Transformer.encoderblock_*.LayerNorm_2",
    "blocks.*.mlp.fc1": "Transformer.encoderblock_*.MlpBlock_3.Dense_0",
    "blocks.*.mlp.fc2": "Transformer.encoderblock_*.MlpBlock_3.Dense_1",
    "norm": "Transformer.encoder_norm",
    "head": "head",
}
_NAMES = {"huggingface": _HUGGING_FACE, "timm": _TIMM, "habana": _HABANA, "npz": _GOOGLE}

# How files of a layout spell the same names otherwise: patterns and what they become, in this order.
_SPELLINGS: Dict[str, Tuple[Tuple[str, str], ...]] = {
    "huggingface": ((r"^vit\.", ""),),
    "timm": ((r"^(module\.|_orig_mod\.)+", ""),),
    "habana": ((r"^(module\.)?(transformer\.)?", ""),),
    "npz": ((r"\.(kernel|scale)$", ".weight"), (r"^(?=(conv_root|gn_root|block\d+)\.)", "embeddings.resnet.")),
}
# The patch embedding's name gives a layout away.
_MARKS = {
    "huggingface": r"embeddings\.patch_embeddings\.projection\.weight$",
    "timm": r"^(module\.|_orig_mod\.)*patch_embed\.proj\.weight$",
    "habana": r"embeddings\.patch_embeddings\.weight$",
    "npz": r"^embedding/kernel$",
}
# A hybrid's ResNet has Google's names here; Hugging Face's and timm's models have none that computes the same.
RESNET = "embeddings.resnet."
WITH_RESNET = ("huggingface", "npz")


def detect(names: Iterable[str]) -> Optional[str]:
    """Layout of a checkpoint with these tensor names, None if it is none that is known."""
    text = "\n".join(names)
    return next((layout for layout, mark in _MARKS.items() if re.search(mark, text, re.MULTILINE)), None)


def heads_of(tensors: State) -> Optional[int]:
    """Attention heads, where the shapes of a checkpoint (Google's) show them."""
    return next((tensor.shape[-2] for name, tensor in tensors.items() if name.endswith("query/kernel")), None)


def from_layout(tensors: State, layout: str) -> State:
    """Tensors under our names and in our shapes; one that has no counterpart here keeps its name."""
    table = {theirs: ours for ours, theirs in _NAMES[layout].items()}
    result: State = {}
    for name, tensor in tensors.items():
        spelling = name.replace("/", ".")
        for pattern, replacement in _SPELLINGS[layout]:
            spelling = re.sub(pattern, replacement, spelling)
        ours = _translated(spelling, table)
        result[ours or name] = _from_flax(ours, tensor) if ours and layout == "npz" else tensor
    return joined(result)


def to_layout(state: State, layout: str, heads: int) -> State:
    """A model's tensors under the names and in the shapes of a layout, all of it that its files hold."""
    if layout != "timm":
        state = parted(state)
    result: State = {}
    for ours, tensor in state.items():
        name = _translated(ours, _NAMES[layout])
        assert name is not None, f"{ours} has no name in the {layout} layout"
        if layout == "npz":
            result[_flax_name(ours, name, tensor)] = _to_flax(ours, tensor, heads)
        else:
            prefix = {"huggingface": "vit.", "habana": "transformer."}.get(layout, "")
            result[name if ours.startswith("head.") else prefix + name] = tensor
    return result


def _translated(name: str, table: Dict[str, str]) -> Optional[str]:
    return name if name.startswith(RESNET) else translated(name, table)


def _from_flax(ours: str, tensor: Tensor) -> Tensor:
    """A tensor of Flax, whose kernels have their outputs last, and which keeps heads apart, in torch's shape."""
    if ".gn" in ours or ours.endswith(".bias"):
        return tensor.flatten()  # heads apart, or GroupNorm's with axes of one before the channels
    if not ours.endswith(".weight") or tensor.ndim < 2:
        return tensor
    if tensor.ndim == 4:
        return tensor.permute(3, 2, 0, 1)  # (height, width, in, out) -> (out, in, height, width)
    if ".proj." in ours:
        return tensor.flatten(0, -2).T  # (H, D/H, D) -> (D, D)
    return tensor.flatten(1).T  # (D, H, D/H) -> (D, D), (in, out) -> (out, in)


def _to_flax(ours: str, tensor: Tensor, heads: int) -> Tensor:
    """The reverse of `_from_flax`, for a model of so many heads."""
    if any(f".{part}." in ours for part in PARTS):
        return tensor.t().unflatten(-1, (heads, -1))  # (D, D) -> (D, H, D/H), (D) -> (H, D/H)
    if not ours.endswith(".weight") or tensor.ndim < 2:
        return tensor
    if tensor.ndim == 4:
        return tensor.permute(2, 3, 1, 0)
    return tensor.T.unflatten(0, (heads, -1)) if ".proj." in ours else tensor.T


def _flax_name(ours: str, name: str, tensor: Tensor) -> str:
    """Google's name of an array, from one with dots that ends as torch's."""
    stem = name[: -len(".weight")] if name.endswith(".weight") else None
    if stem is not None:
        name = f"{stem}.{'kernel' if tensor.ndim > 1 else 'scale'}"
    return (name[len(RESNET) :] if ours.startswith(RESNET) else name).replace(".", "/")
