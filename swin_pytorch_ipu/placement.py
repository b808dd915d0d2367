"""Where the document's model lays activations out anew on an IPU; the op is remapping's."""

from __future__ import annotations

from models import SwinTransformer
from remapping import remap_input, remap_output

ROWS, WINDOWS = 8, 16  # elements that stay together: of a token, where windows are cut


def remap_activations(model: SwinTransformer) -> None:
    """Remap around patch embedding, blocks, windows, attention, MLPs and patch merging.

    A tensor is remapped once where two of these places meet. Scores and weights are only where attention takes its
    explicit path, as it does on IPUs.
    """
    remap_output(model.patch_embed, grain_size=ROWS, debug_str="patch_embed")
    for number, block in enumerate(model.blocks):
        name, attention = f"block{number}", block.attn
        remap_input(attention, grain_size=WINDOWS, debug_str=f"{name}_windows")
        remap_output(attention.qkv, grain_size=ROWS, debug_str=f"{name}_qkv")
        remap_input(attention.attention, grain_size=ROWS, debug_str=f"{name}_queries")
        remap_input(attention.attention.softmax, grain_size=ROWS, debug_str=f"{name}_scores")
        remap_output(attention.attention.softmax, grain_size=ROWS, debug_str=f"{name}_weights")
        remap_input(attention.proj, grain_size=WINDOWS, debug_str=f"{name}_joined")
        remap_output(attention.proj, grain_size=ROWS, debug_str=f"{name}_proj")
        remap_input(block.mlp, grain_size=ROWS, debug_str=f"{name}_mlp")
        remap_output(block.mlp, grain_size=ROWS, debug_str=f"{name}_mlp_out")
        remap_output(block, grain_size=ROWS, debug_str=name)
    for number, stage in enumerate(model.stages):
        if stage.downsample is not None:
            remap_output(stage.downsample, grain_size=ROWS, debug_str=f"merging{number}")
