"""The model of a run, from options and weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional, Union

import torch

from checkpoint import Loaded, load_model, locate
from ipu_options import create_program
from models import MaskedAutoencoder, VisionTransformer, create_model
from options import FinetuneOptions, LinprobeOptions, PretrainOptions, ValidationOptions
from pipeline import place_autoencoder, place_classifier
from poptorch_host.backend import is_host
from remapping import load_library, remap_boundaries
from run import weight_files
from run.errors import UsageError, UserError
from run.launcher import say
from weight_config import model_arguments
from weights import load_weights, read_class_names


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


def build_classifier(
    options: Union[FinetuneOptions, LinprobeOptions], classes: List[str], resumed: Optional[Path] = None
) -> VisionTransformer:
    """The options' classifier of `classes`, in their precision, placed on the IPUs; a probe's head stays float32.

    Args:
        options: of the script.
        classes: class names of the data.
        resumed: folder of a run that goes on. It has weights of its own and needs those that it started from no more.

    Raises:
        UsageError: sizes that make no model.
        UserError: weights that can't be read or don't fit.
    """
    probes = isinstance(options, LinprobeOptions)
    kind: Dict[str, Any] = {"linear_probe": probes}
    if isinstance(options, FinetuneOptions):
        kind["drop_path"] = options.drop_path
    place = resumed or (locate(options.finetune) if options.finetune else None)
    source = str(place) if place else ""
    gelu = options.gelu_type or (gelu_of(source) if source else "erf")
    try:
        model = create_model(
            options.model,
            image_size=options.input_size,
            num_classes=len(classes),
            global_pool=options.pools,
            gelu=gelu,
            **kind,
            **options.sizes(),
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    assert isinstance(model, VisionTransformer)
    if resumed is None:
        if source:
            say(str(load_weights(model, source, new_head=True)))
        else:
            say("no --finetune: the weights are random")
    if options.half:
        model.to(torch.half)
    if probes:
        model.head.float()
    place_classifier(model, options.pipeline, create_program(options).ipus)
    return model


def gelu_of(weights: str) -> str:
    """The GELU that weights were trained with; published ones, which do not say so, with the exact one."""
    place = weight_files.locate(weights)
    config = weight_files.read_config(place)
    return str(model_arguments(config, place).get("gelu", "erf")) if config else "erf"


def load_trained_classifier(options: ValidationOptions) -> Loaded:
    """The classifier that the options name, in their precision, placed on the IPUs.

    Raises:
        UserError: there is none.
    """
    loaded = load_model(
        options.resume, reconstructs=False, image_size=options.input_size, eval_resize=options.eval_resize
    )
    assert isinstance(loaded.model, VisionTransformer)
    say(str(loaded.report))
    if options.half:
        loaded.model.to(torch.half)
    place_classifier(loaded.model, options.pipeline, create_program(options).ipus)
    return loaded


def check_classes(loaded: Loaded, classes: List[str]) -> None:
    """Hold a checkpoint's classes against the data's.

    Raises:
        UserError: it was trained for another number of classes, or for the same ones in another order.
    """
    assert isinstance(loaded.model, VisionTransformer)
    trained = loaded.model.config.num_classes
    if trained != len(classes):
        raise UserError(
            f"{loaded.place} was trained for {trained} classes and the data has {len(classes)}: "
            "validate on the data that it was trained for"
        )
    names = read_class_names(loaded.place)
    if not set(names) & set(classes):
        return  # other names, as in published weights, tell nothing
    first = next((label for label, name in enumerate(names) if name != classes[label]), None)
    if first is not None:
        raise UserError(
            f"class {first} is {names[first]} in {loaded.place} and {classes[first]} in the data: "
            "validate on class folders named as those that it was trained on"
        )
