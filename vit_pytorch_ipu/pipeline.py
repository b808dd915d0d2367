"""Where the ViT's layers stand in the IPU's pipeline. Annotations only: results are the same without them."""

from __future__ import annotations

from typing import List, Sequence, Tuple, cast

from torch import Tensor, nn

from models.vit import Block, VisionTransformer
from poptorch_host.backend import poptorch
from run.errors import UsageError


def ipu_of_layers(layers_per_ipu: Sequence[int]) -> List[int]:
    """The IPU of each encoder layer, e.g. [2, 1] → [0, 0, 1]."""
    return [ipu for ipu, layers in enumerate(layers_per_ipu) for _ in range(layers)]


def _stash_output(_module: nn.Module, _inputs: Sequence[Tensor], output: Tensor) -> Tensor:
    return poptorch.recomputationCheckpoint(output)


def _stash_input(_module: nn.Module, inputs: Tuple[Tensor]) -> Tuple[Tensor]:
    return (poptorch.recomputationCheckpoint(inputs[0]),)


def place(
    model: VisionTransformer,
    layers_per_ipu: Sequence[int],
    *,
    recompute_checkpoints: bool = False,
    recompute_mid_layers: Sequence[int] = (),
) -> None:
    """Begin a block at the embeddings and at each encoder layer; the tail follows the last layer's IPU.

    Args:
        model: annotated in place.
        layers_per_ipu: encoder layers on each IPU; their sum must be the model's depth.
        recompute_checkpoints: keep each layer's output for the backward pass and recompute what lies between.
        recompute_mid_layers: layers, from 0, that also keep what lies between their attention and their MLP.

    Raises:
        UsageError: the sum is not the model's depth, an IPU has no layer, or there is no such layer.
    """
    ipus = ipu_of_layers(layers_per_ipu)
    if len(ipus) != len(model.blocks) or min(layers_per_ipu) < 1:
        raise UsageError(
            "layers_per_ipu %s places %d layers and the model has %d: give at least 1 per IPU, %d in all"
            % (list(layers_per_ipu), len(ipus), len(model.blocks), len(model.blocks))
        )
    for index in recompute_mid_layers:
        if index >= len(model.blocks):
            raise UsageError(
                "recompute_mid_layers names layer %d and the model has 0 to %d: leave it out"
                % (index, len(model.blocks) - 1)
            )
        cast(Block, model.blocks[index]).norm2.register_forward_pre_hook(_stash_input)
    poptorch.BeginBlock(model.embeddings, "embeddings", ipu_id=0)
    for index, (block, ipu) in enumerate(zip(model.blocks, ipus)):
        poptorch.BeginBlock(block, "layer%d" % index, ipu_id=ipu)
        if recompute_checkpoints:
            block.register_forward_hook(_stash_output)
    poptorch.BeginBlock(model.norm, "tail", ipu_id=ipus[-1])
