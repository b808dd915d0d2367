"""The model of a run, from options and weights."""

from __future__ import annotations

from pathlib import Path
from typing import List, Tuple

import torch

from models import create_model
from models.vit import VisionTransformer
from options import FinetuneOptions, PretrainOptions, ValidationOptions
from pipeline import place
from run.checkpoints import best_of_run, find
from run.distributed import is_main
from run.errors import UsageError, UserError
from weights import load_weights, read_class_names, read_config


def build_model(options: FinetuneOptions, classes: List[str], *, pretrained: bool = True) -> VisionTransformer:
    """A ViT for `classes`, in the options' precision, placed on the IPUs.

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
            image_size=options.image_size,
            num_classes=len(classes),
            hidden_dropout=options.hidden_dropout_prob,
            attention_dropout=options.attention_probs_dropout_prob,
            drop_path=options.drop_path_rate,
            **options.sizes(),
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    if pretrained and options.pretrained_checkpoint != "none":
        report = load_weights(model, best_of_run(options.pretrained_checkpoint), new_head=options.new_head)
        if is_main():
            print(report, flush=True)
    _convert(model, options.precision)
    middle = options.recompute_mid_layers if isinstance(options, PretrainOptions) else []
    every = options.recompute_checkpoint_every_layer
    place(model, options.layers_per_ipu, recompute_checkpoints=every, recompute_mid_layers=middle)
    return model


def load_trained_model(options: ValidationOptions, classes: List[str]) -> Tuple[VisionTransformer, Path]:
    """The trained model that the options name, and where its weights lay.

    Raises:
        UserError: it was trained for other classes than the data's, or for the same in another order.
    """
    place_of_weights = Path(options.pretrained_checkpoint)
    if (place_of_weights / "checkpoints").is_dir():
        place_of_weights = find(place_of_weights, options.checkpoint)
    _check_classes(place_of_weights, classes)
    if options.model is None:
        arguments = dict(read_config(place_of_weights), image_size=options.image_size)
    else:
        arguments = {"name": options.model, "image_size": options.image_size, "num_classes": len(classes)}
    if arguments["num_classes"] != len(classes):
        raise UserError(
            f"{place_of_weights} was trained for {arguments['num_classes']} classes and the data has {len(classes)}: "
            "validate on the data that it was trained for"
        )
    try:
        model = create_model(**arguments)
    except ValueError as error:
        raise UsageError(str(error)) from error
    report = load_weights(model, place_of_weights)
    if is_main():
        print(report, flush=True)
    _convert(model, options.precision)
    place(model, options.layers_per_ipu)
    return model, place_of_weights


def _check_classes(weights: Path, classes: List[str]) -> None:
    """Hold the checkpoint's class names against the data's, where it has names of the same kind."""
    names = read_class_names(weights)
    if len(names) != len(classes) or not set(names) & set(classes):
        return  # another number is an error of its own; other names, as in published weights, tell nothing
    first = next((label for label, name in enumerate(names) if name != classes[label]), None)
    if first is not None:
        raise UserError(
            f"class {first} is {names[first]} in {weights} and {classes[first]} in the data: "
            "validate on class folders named as those that it was trained on"
        )


def _convert(model: VisionTransformer, precision: str) -> None:
    if precision == "16.16":
        model.to(torch.half)
