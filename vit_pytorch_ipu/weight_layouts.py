"""Names and shapes of ViT weights in the layouts of public checkpoints, and their translation to models.vit's.

In the tables `*` stands for a block's number, and names go without a final `weight` or `bias`.
"""

from __future__ import annotations

import math
import re
from typing import Dict, Iterable, Optional, Tuple

import torch
from torch import Tensor

from weight_tensors import State, joined, parted, translated

# Our name → the layout's. Slashes in Google's names are written as dots.
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
    "representation": "pooler.dense",
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
    "representation": "pre_logits.fc",
    "head": "head",
}
_GRAPHCORE = {
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
    "representation": "representation.representation_layer",
    "head": "head",
}
_GOOGLE = {
    "embeddings.class_token": "cls",
    "embeddings.positions": "pos_embedding",
    "embeddings.patch": "embedding",
    "blocks.*.norm1": "Transformer.encoderblock_*.LayerNorm_0",
    "blocks.*.attention.query": "Transformer.encoderblock_*.MultiHeadDotProductAttention.query",
    "blocks.*.attention.key": "Transformer.encoderblock_*.MultiHeadDotProductAttention.key",
    "blocks.*.attention.value": "Transformer.encoderblock_*.MultiHeadDotProductAttention.value",
    "blocks.*.attention.proj": "Transformer.encoderblock_*.MultiHeadDotProductAttention.out",
    "blocks.*.norm2": "Transformer.encoderblock_*.LayerNorm_2",
    "blocks.*.mlp.fc1": "Transformer.encoderblock_*.MlpBlock.Dense_0",
    "blocks.*.mlp.fc2": "Transformer.encoderblock_*.MlpBlock.Dense_1",
    "norm": "Transformer.encoder_norm",
    "representation": "pre_logits",
    "head": "head",
}
_NAMES = {"huggingface": _HUGGING_FACE, "timm": _TIMM, "graphcore": _GRAPHCORE, "google": _GOOGLE}

# How files of a layout spell the same names otherwise: patterns and what they become, in this order.
_SPELLINGS: Dict[str, Tuple[Tuple[str, str], ...]] = {
    "huggingface": (
        (r"^vit\.", ""),
        (r"^layers\.", "encoder.layer."),  # from here on: names inside transformers 5
        (r"\.attention\.q_proj\.", ".attention.attention.query."),
        (r"\.attention\.k_proj\.", ".attention.attention.key."),
        (r"\.attention\.v_proj\.", ".attention.attention.value."),
        (r"\.attention\.o_proj\.", ".attention.output.dense."),
        (r"\.mlp\.fc1\.", ".intermediate.dense."),
        (r"\.mlp\.fc2\.", ".output.dense."),
    ),
    "timm": ((r"^(module\.|_orig_mod\.)+", ""),),
    "graphcore": ((r"^model\.", ""),),
    "google": (
        (r"^Transformer\.posembed_input\.", ""),
        (r"\.MultiHeadDotProductAttention_\d\.", ".MultiHeadDotProductAttention."),
        (r"\.MlpBlock_\d\.", ".MlpBlock."),
        (r"\.LayerNorm_1\.", ".LayerNorm_2."),  # the second norm: 2 before Flax's Linen, 1 since
        (r"\.(kernel|scale)$", ".weight"),
    ),
}
# The patch embedding's name gives a layout away.
_MARKS = {
    "huggingface": r"embeddings\.patch_embeddings\.projection\.weight$",
    "timm": r"(^|\.)patch_embed\.proj\.weight$",
    "graphcore": r"embeddings\.patch_embeddings\.weight$",
    "google": r"^(params/|opt/target/)?embedding/kernel$",
}


def detect(names: Iterable[str]) -> Optional[str]:
    """Layout of a checkpoint with these tensor names, None if it is none that is known."""
    text = "\n".join(names)
    return next((layout for layout, mark in _MARKS.items() if re.search(mark, text, re.MULTILINE)), None)


def heads_of(tensors: State) -> Optional[int]:
    """Attention heads, where the shapes of a checkpoint (Google's) show them."""
    return next((tensor.shape[-2] for name, tensor in tensors.items() if name.endswith("query/kernel")), None)


def from_layout(tensors: State, layout: str) -> State:
    """Tensors under our names and in our shapes; one that has no counterpart here keeps its name."""
    if layout == "google":
        tensors = _unstacked(_within_prefix(tensors))
    table = {theirs: ours for ours, theirs in _NAMES[layout].items()}
    result: State = {}
    for name, tensor in tensors.items():
        spelling = name.replace("/", ".")
        for pattern, replacement in _SPELLINGS[layout]:
            spelling = re.sub(pattern, replacement, spelling)
        ours = translated(spelling, table)
        result[ours or name] = _from_flax(ours, tensor) if ours and layout == "google" else tensor
    return joined(result)


def to_layout(state: State, layout: str) -> State:
    """A model's tensors under the names of "timm" or "huggingface" (those of a ViTForImageClassification's file)."""
    if layout == "huggingface":
        state = parted(state)
    result: State = {}
    for name, tensor in state.items():
        theirs = translated(name, _NAMES[layout])
        assert theirs is not None, f"{name} has no name in the {layout} layout"
        inside = layout == "huggingface" and not name.startswith("head.")
        result[f"vit.{theirs}" if inside else theirs] = tensor
    return result


def _within_prefix(tensors: State) -> State:
    """The model's tensors of a training state, without the optimizer's."""
    prefix = next(prefix for prefix in ("", "params/", "opt/target/") if f"{prefix}embedding/kernel" in tensors)
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _unstacked(tensors: State) -> State:
    """Blocks that are stacked along a leading axis (Flax's scan) taken apart."""
    result: State = {}
    for name, tensor in tensors.items():
        if "/encoderblock/" in name:
            for index, layer in enumerate(tensor):
                result[name.replace("/encoderblock/", f"/encoderblock_{index}/")] = layer
        else:
            result[name] = tensor
    return result


def _from_flax(ours: str, tensor: Tensor) -> Tensor:
    """A tensor of Flax, whose dense kernels are (in, out), and which keeps heads apart, in torch's shape."""
    if ours == "embeddings.positions":
        return _with_class_position(tensor)
    if ours == "embeddings.patch.weight":
        return tensor.permute(3, 2, 0, 1)  # (height, width, in, out) -> (out, in, height, width)
    if not ours.endswith(".weight"):
        return tensor.flatten() if ours.endswith(".bias") else tensor
    if ".proj." in ours:
        return tensor.flatten(0, -2).T  # (H, D/H, D) -> (D, D)
    return tensor.flatten(1).T if tensor.ndim > 1 else tensor  # (D, H, D/H) -> (D, D), (in, out) -> (out, in)


def _with_class_position(positions: Tensor) -> Tensor:
    """Positions (1, N, D), with a zero one for the class token in files (big_vision's) that have none."""
    if math.isqrt(positions.shape[1]) ** 2 != positions.shape[1]:
        return positions
    return torch.cat((torch.zeros_like(positions[:, :1]), positions), dim=1)
