"""Where Swin's blocks stand in the IPU's pipeline. Annotations only: results are the same without them."""

from __future__ import annotations

from typing import List, Sequence

from models.swin import SwinTransformer
from poptorch_host.backend import poptorch
from run.errors import UsageError


def ipu_of_blocks(layers_per_ipu: Sequence[int]) -> List[int]:
    """The IPU of each block, e.g. [2, 1] → [0, 0, 1]."""
    return [ipu for ipu, blocks in enumerate(layers_per_ipu) for _ in range(blocks)]


def place(model: SwinTransformer, layers_per_ipu: Sequence[int], *, large_head: bool = False) -> None:
    """Begin a pipeline stage at the patch embedding and at each block.

    Patch merging stays with the block before it; the last norm, the head and the loss with the last block.

    Args:
        model: annotated in place.
        layers_per_ipu: blocks of all stages on each IPU; their sum must be the model's depth.
        large_head: layout for a head of 21,841 classes (MAPPING_FOR_21K): the head has the last IPU, whose entry may
            be 0, and the IPU before it begins inside a block, at the norm before its MLP, so the IPU before that
            computes the attention.

    Raises:
        UsageError: the sum is not the model's depth, or an IPU has no block.
    """
    blocks, ipus = model.blocks, ipu_of_blocks(layers_per_ipu)
    least = 0 if large_head else 1
    if len(ipus) != len(blocks) or min(layers_per_ipu[:-1], default=1) < 1 or layers_per_ipu[-1] < least:
        raise UsageError(
            "layers_per_ipu %s places %d blocks and the model has %d: give at least 1 per IPU, %d in all"
            % (list(layers_per_ipu), len(ipus), len(blocks), len(blocks))
        )
    if large_head and len(layers_per_ipu) < 3:
        raise UsageError("the layout for 21,841 classes takes 3 IPUs or more: give layers_per_ipu more entries")
    last = len(layers_per_ipu) - 1
    cut = ipus.index(last - 1) if large_head else None
    poptorch.BeginBlock(model.patch_embed, "patch_embed", ipu_id=0)
    for index, (block, ipu) in enumerate(zip(blocks, ipus)):
        poptorch.BeginBlock(block, "block%d" % index, ipu_id=ipu - 1 if index == cut else ipu)
        if index == cut:
            poptorch.BeginBlock(block.norm2, "block%d_mlp" % index, ipu_id=ipu)
    if large_head:
        poptorch.BeginBlock(model.head, "head", ipu_id=last)
