"""The model of a run, from options and weights."""

from __future__ import annotations

from pathlib import Path
from typing import List, Tuple

import torch

from models import create_model
from models.vit import VisionTransformer
from options import FinetuneOptions, ValidationOptions
from pipeline import place
from run.checkpoints import find
from run.distributed import is_main
from run.errors import UserError
from weights import load_weights, read_config


def build_model(options: FinetuneOptions, classes: List[str]) -> VisionTransformer:
    """A ViT for `classes`, with pretrained weights if asked for, in the options' precision, placed on the IPUs."""
    model = create_model(
        options.model,
        image_size=options.image_size,
        num_classes=len(classes),
        hidden_dropout=options.hidden_dropout_prob,
        attention_dropout=options.attention_probs_dropout_prob,
        drop_path=options.drop_path_rate,
        **options.sizes(),
    )
    if options.pretrained_checkpoint != "none":
        report = load_weights(model, options.pretrained_checkpoint, new_head=options.new_head)
        if is_main():
            print(report, flush=True)
    return _ready(model, options.precision, options.layers_per_ipu, options.recompute_checkpoint_every_layer)


def load_trained_model(options: ValidationOptions, classes: List[str]) -> Tuple[VisionTransformer, Path]:
    """The trained model that the options name, and where its weights lay.

    Raises:
        UserError: it was trained for other classes than the data's, or for the same in another order.
    """
    place_of_weights = Path(options.pretrained_checkpoint)
    if (place_of_weights / "checkpoints").is_dir():
        place_of_weights = find(place_of_weights, options.checkpoint)
    if options.model is None:
        arguments = dict(read_config(place_of_weights), image_size=options.image_size)
    else:
        arguments = {"name": options.model, "image_size": options.image_size, "num_classes": len(classes)}
    if arguments["num_classes"] != len(classes):
        raise UserError(
            f"{place_of_weights} was trained for {arguments['num_classes']} classes and the data has {len(classes)}: "
            "validate on the data that it was trained for"
        )
    model = create_model(**arguments)
    report = load_weights(model, place_of_weights)
    if is_main():
        print(report, flush=True)
    return _ready(model, options.precision, options.layers_per_ipu, recompute=False), place_of_weights


def _ready(model: VisionTransformer, precision: str, layers_per_ipu: List[int], recompute: bool) -> VisionTransformer:
    if precision == "16.16":
        model.to(torch.half)
    place(model, layers_per_ipu, recompute_checkpoints=recompute)
    return model
