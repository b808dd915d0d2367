"""The model of a run, from options and weights."""

from __future__ import annotations

from pathlib import Path
from typing import List

import torch

from models import MaskedAutoencoder, VisionTransformer, create_model
from options import FinetuneOptions, PretrainOptions
from pipeline import place_autoencoder, place_classifier
from poptorch_host.backend import is_host
from remapping import load_library, remap_boundaries
from run.errors import UsageError
from run.launcher import say
from weights import load_weights


def build_autoencoder(options: PretrainOptions) -> MaskedAutoencoder:
    """The options' masked autoencoder with fresh weights, in their precision, placed on the IPUs.

    Raises:
        UsageError: sizes that make no model.
        UserError: the remap op can't be had.
    """
    try:
        model = create_model(options.model, image_size=options.input_size, **options.sizes())
    except ValueError as error:
        raise UsageError(str(error)) from error
    assert isinstance(model, MaskedAutoencoder)
    if options.half:
        model.to(torch.half)
    place_autoencoder(model, options.pipeline)
    if not is_host if options.remap is None else options.remap:
        load_library(Path(options.remap_so))
        for blocks in (model.blocks, model.decoder_blocks):
            remap_boundaries(list(blocks), grain_size=8)
    return model


def build_classifier(options: FinetuneOptions, classes: List[str], *, pretrained: bool = True) -> VisionTransformer:
    """The options' classifier of `classes`, in their precision, placed on the IPUs.

    Args:
        options: of the script.
        classes: class names of the data.
        pretrained: load the weights that the options name. A run that is resumed does not need them any more.

    Raises:
        UsageError: sizes that make no model.
        UserError: weights that can't be read or don't fit.
    """
    try:
        model = create_model(
            options.model,
            image_size=options.input_size,
            num_classes=len(classes),
            global_pool=options.global_pool,
            drop_path=options.drop_path,
            **options.sizes(),
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    assert isinstance(model, VisionTransformer)
    if pretrained and options.finetune:
        say(str(load_weights(model, options.finetune, new_head=True)))
    if options.half:
        model.to(torch.half)
    place_classifier(model, options.pipeline)
    return model
