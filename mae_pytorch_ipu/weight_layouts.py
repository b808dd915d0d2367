"""Names of weights in Hugging Face's checkpoints and in published MAE ones, whose names are the models' own and timm's.

In the table `*` stands for a block's number, and names go without a final `weight` or `bias`.
"""

from __future__ import annotations

import re
from typing import Iterable, Optional

from weight_tensors import State, joined, parted, translated

LAYOUTS = ("mae", "huggingface")
DECODER = ("decoder_", "mask_token")

# A block's layers, ours → Hugging Face's.
_BLOCK = {
    "norm1": "layernorm_before",
    "attn.query": "attention.attention.query",
    "attn.key": "attention.attention.key",
    "attn.value": "attention.attention.value",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_HUGGING_FACE = {
    "cls_token": "vit.embeddings.cls_token",
    "pos_embed": "vit.embeddings.position_embeddings",
    "patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
    **{f"blocks.*.{ours}": f"vit.encoder.layer.*.{theirs}" for ours, theirs in _BLOCK.items()},
    "norm": "vit.layernorm",
    "mask_token": "decoder.mask_token",
    "decoder_pos_embed": "decoder.decoder_pos_embed",
    "decoder_embed": "decoder.decoder_embed",
    **{f"decoder_blocks.*.{ours}": f"decoder.decoder_layers.*.{theirs}" for ours, theirs in _BLOCK.items()},
    "decoder_norm": "decoder.decoder_norm",
    "decoder_pred": "decoder.decoder_pred",
    "head": "classifier",
}
# How its files spell the same names otherwise: patterns and what they become, in this order.
_SPELLINGS = (
    (r"^(embeddings|encoder|layernorm|layers)\.", r"vit.\1."),  # files of the encoder alone
    (r"^decoder\.decoder_encoder\.layer\.", "decoder.decoder_layers."),  # files that transformers 5 writes
    (r"^vit\.layers\.", "vit.encoder.layer."),  # from here on: names inside transformers 5
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)
# The patch embedding's name gives a layout away.
_MARKS = {
    "mae": r"(^|\.)patch_embed\.proj\.weight$",
    "huggingface": r"embeddings\.patch_embeddings\.projection\.weight$",
}


def detect(names: Iterable[str]) -> Optional[str]:
    """Layout of a checkpoint with these tensor names, None if it is none of LAYOUTS."""
    text = "\n".join(names)
    return next((layout for layout, mark in _MARKS.items() if re.search(mark, text, re.MULTILINE)), None)


def from_layout(tensors: State, layout: str) -> State:
    """Tensors under the models' names; one that has no counterpart there keeps its name."""
    if layout == "mae":
        return {re.sub(r"^(module\.|_orig_mod\.|model\.)+", "", name): tensor for name, tensor in tensors.items()}
    table = {theirs: ours for ours, theirs in _HUGGING_FACE.items()}
    result: State = {}
    for name, tensor in tensors.items():
        spelling = name
        for pattern, replacement in _SPELLINGS:
            spelling = re.sub(pattern, replacement, spelling)
        result[translated(spelling, table) or name] = tensor
    return joined(result)


def to_layout(state: State, layout: str) -> State:
    """A model's tensors under the names of "mae" or "huggingface"."""
    if layout == "mae":
        return state
    result: State = {}
    for name, tensor in parted(state).items():
        theirs = translated(name, _HUGGING_FACE)
        assert theirs is not None, f"{name} has no name in the {layout} layout"
        result[theirs] = tensor
    return result


def is_decoder(name: str) -> bool:
    """Whether a tensor of the models' names belongs to the decoder."""
    return name.startswith(DECODER)
