"""Where a model's layers stand in the IPUs' pipeline. Annotations only: results are the same without them."""

from __future__ import annotations

from typing import List, Sequence

from torch import nn

from models import MaskedAutoencoder, VisionTransformer
from poptorch_host.backend import poptorch
from run.errors import UsageError


def even_layers(depth: int, ipus: int) -> List[int]:
    """Layers on each of `ipus` IPUs, as even as can be, the first ones taking what is over."""
    return [depth // ipus + (index < depth % ipus) for index in range(ipus)]


def ipu_of_layers(layers_per_ipu: Sequence[int]) -> List[int]:
    """The IPU of each layer, e.g. [2, 1] → [0, 0, 1]."""
    return [ipu for ipu, layers in enumerate(layers_per_ipu) for _ in range(layers)]


def place_autoencoder(model: MaskedAutoencoder, layers: Sequence[int]) -> None:
    """Lay the encoder over the IPUs and the decoder over the same ones again.

    Args:
        model: annotated in place.
        layers: encoder layers on each IPU, then decoder layers on each.

    Raises:
        UsageError: the numbers are not the model's depths.
    """
    ipus = len(layers) // 2
    encoder, decoder = layers[:ipus], layers[ipus:]
    _place(model.blocks, encoder, "encoder")
    _place(model.decoder_blocks, decoder, "decoder")
    poptorch.BeginBlock(model.decoder_embed, "decoder_embed", ipu_id=ipu_of_layers(decoder)[0])
    poptorch.BeginBlock(model.decoder_norm, "prediction", ipu_id=ipu_of_layers(decoder)[-1])


def place_classifier(model: VisionTransformer, layers: Sequence[int], ipus: int) -> None:
    """Lay the encoder over the IPUs; the head stands on the last layer's.

    Args:
        model: annotated in place.
        layers: on each IPU; empty spreads them evenly.
        ipus: of the pipeline.

    Raises:
        UsageError: the sum of `layers` is not the model's depth.
    """
    _place(model.blocks, layers or even_layers(len(model.blocks), ipus), "encoder")


def _place(blocks: nn.ModuleList, layers: Sequence[int], what: str) -> None:
    ipus = ipu_of_layers(layers)
    if len(ipus) != len(blocks):
        raise UsageError(
            "the pipeline %s places %d %s layers and the model has %d: make them agree"
            % (list(layers), len(ipus), what, len(blocks))
        )
    for index, (block, ipu) in enumerate(zip(blocks, ipus)):
        poptorch.BeginBlock(block, "%s%d" % (what, index), ipu_id=ipu)
