"""Names of Swin weights in the layouts of public checkpoints, and their translation to models.swin's.

models.swin has the names of Microsoft's checkpoints. Index and mask buffers, which several layouts save, are left out:
the model computes them from its geometry.
"""

from __future__ import annotations

import re
from typing import Callable, Dict, Iterable, List, Match, Optional, Tuple, Union

from weight_tensors import State, joined, parted

Rules = Tuple[Tuple[str, Union[str, Callable[[Match[str]], str]]], ...]

LAYOUTS = ("official", "timm", "torchvision", "huggingface")
_BUFFERS = re.compile(r"(relative_position_index|relative_coords_table|attn_mask)$")

# Patterns of a layout's names and what they become, all tried in this order.
_FROM: Dict[str, Rules] = {
    "official": (
        (r"^(module\.|_orig_mod\.|model\.)+", ""),
        (r"^encoder\.", ""),  # of SimMIM, whose encoder is the model
    ),
    "timm": (  # whose patch merging opens the next stage
        (r"^(module\.|_orig_mod\.)+", ""),
        (r"^layers\.(\d+)\.downsample\.", lambda m: f"layers.{int(m[1]) - 1}.downsample."),
        (r"^head\.fc\.", "head."),
    ),
    "torchvision": (
        (r"^(module\.|_orig_mod\.)+", ""),
        (r"^features\.0\.0\.", "patch_embed.proj."),
        (r"^features\.0\.2\.", "patch_embed.norm."),
        (r"^features\.(\d+)\.(\d+)\.", lambda m: f"layers.{int(m[1]) // 2}.blocks.{m[2]}."),
        (r"^features\.(\d+)\.(reduction|norm)\.", lambda m: f"layers.{int(m[1]) // 2 - 1}.downsample.{m[2]}."),
        (r"\.mlp\.0\.", ".mlp.fc1."),
        (r"\.mlp\.3\.", ".mlp.fc2."),
    ),
    "huggingface": (
        (r"^swin\.", ""),
        (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"^embeddings\.norm\.", "patch_embed.norm."),
        (r"^embeddings\.position_embeddings$", "absolute_pos_embed"),
        (r"^encoder\.layers\.", "layers."),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"\.attention\.self\.(relative_position\w+)$", r".attn.\1"),
        (r"\.attention\.relative_position_bias\.(relative_position\w+)$", r".attn.\1"),  # inside transformers 5
        (r"\.attention\.(?:self\.)?(query|key|value)\.", r".attn.\1."),
        (r"\.attention\.([qkv])_proj\.", r".attn.\1."),
        (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
        (r"\.intermediate\.dense\.", ".mlp.fc1."),
        (r"\.output\.dense\.", ".mlp.fc2."),
        (r"^layernorm\.", "norm."),
        (r"^classifier\.", "head."),
    ),
}
_TO: Dict[str, Rules] = {
    "official": (),
    "timm": (
        (r"^layers\.(\d+)\.downsample\.", lambda m: f"layers.{int(m[1]) + 1}.downsample."),
        (r"^head\.", "head.fc."),
    ),
    "torchvision": (
        (r"^patch_embed\.proj\.", "features.0.0."),
        (r"^patch_embed\.norm\.", "features.0.2."),
        (r"^layers\.(\d+)\.blocks\.", lambda m: f"features.{2 * int(m[1]) + 1}."),
        (r"^layers\.(\d+)\.downsample\.", lambda m: f"features.{2 * int(m[1]) + 2}."),
        (r"\.mlp\.fc1\.", ".mlp.0."),
        (r"\.mlp\.fc2\.", ".mlp.3."),
    ),
    "huggingface": (
        (r"^patch_embed\.proj\.", "swin.embeddings.patch_embeddings.projection."),
        (r"^patch_embed\.norm\.", "swin.embeddings.norm."),
        (r"^absolute_pos_embed$", "swin.embeddings.position_embeddings"),
        (r"^layers\.", "swin.encoder.layers."),
        (r"\.norm1\.", ".layernorm_before."),
        (r"\.norm2\.", ".layernorm_after."),
        (r"\.attn\.proj\.", ".attention.output.dense."),
        (r"\.attn\.", ".attention.self."),
        (r"\.mlp\.fc1\.", ".intermediate.dense."),
        (r"\.mlp\.fc2\.", ".output.dense."),
        (r"^norm\.", "swin.layernorm."),
        (r"^head\.", "classifier."),
    ),
}


def detect(names: Iterable[str]) -> Optional[str]:
    """Layout of a checkpoint with these tensor names, None if it is none that is known."""
    text = "\n".join(names)

    def has(pattern: str) -> bool:
        return re.search(pattern, text, re.MULTILINE) is not None

    if has(r"(^|\.)embeddings\.patch_embeddings\.projection\.weight$") and has(r"relative_position_bias_table$"):
        return "huggingface"
    if has(r"(^|\.)features\.0\.0\.weight$") and has(r"relative_position_bias_table$"):
        return "torchvision"
    if not has(r"(^|\.)patch_embed\.proj\.weight$") or not has(r"relative_position_bias_table$"):
        return None
    merges_first = has(r"(^|\.)layers\.0\.downsample\.")
    return "timm" if not merges_first and has(r"(^|\.)(layers\.\d+\.downsample|head\.fc)\.") else "official"


def from_layout(tensors: State, layout: str) -> Tuple[State, List[str]]:
    """Tensors under our names, and the names of the buffers that were left out.

    A tensor that has no counterpart here keeps its name.
    """
    kept = {name: tensor for name, tensor in tensors.items() if not _BUFFERS.search(name)}
    state = {_renamed(name, _FROM[layout]): tensor for name, tensor in kept.items()}
    return (joined(state) if layout == "huggingface" else state), [name for name in tensors if name not in kept]


def to_layout(state: State, layout: str) -> State:
    """A model's tensors under the names of a layout, of Hugging Face's those of a SwinForImageClassification's file."""
    if layout == "huggingface":
        state = parted(state)
    return {_renamed(name, _TO[layout]): tensor for name, tensor in state.items()}


def _renamed(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
