"""The model of a run, from options and weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Dict, List, Tuple

import torch

import imagenet22k
from common.folders import IMAGENET_CLASSES_SHA256
from models import SwinTransformer, create_model
from options import Options, TrainOptions, ValidationOptions
from pipeline import place
from placement import remap_activations
from poptorch_host.backend import is_host
from remapping import load_library
from run import weight_files
from run.checkpoints import best_of_run, find
from run.errors import UsageError, UserError
from run.launcher import say
from weights import load_weights, read_class_names

AVERAGED = "ema"  # folder of the averaged weights inside a checkpoint's
_HEADS = ("head.weight", "head.fc.weight", "classifier.weight")


def build_network(options: Options, classes: List[str]) -> SwinTransformer:
    """A Swin for `classes` with fresh weights in float32; UsageError for sizes that make none."""
    regularisation: Dict[str, Any] = {}
    if isinstance(options, TrainOptions):
        regularisation = {
            "drop_path": options.drop_path_rate,
            "dropout": options.drop_rate,
            "attention_dropout": options.attn_drop_rate,
            "checkpoint_blocks": options.use_checkpoint,
        }
    try:
        return create_model(options.model, num_classes=len(classes), **options.sizes(), **regularisation)
    except ValueError as error:
        raise UsageError(str(error)) from error


def build_model(options: TrainOptions, classes: List[str], *, pretrained: bool = True) -> SwinTransformer:
    """The Swin that the options train, in their precision, placed on the IPUs.

    Args:
        options: of the script.
        classes: class names of the data.
        pretrained: load the weights that the options name. A run that is resumed does not need them any more.

    Raises:
        UsageError: sizes that make no model.
        UserError: weights that can't be read or don't fit, or the remap op can't be had.
    """
    model = build_network(options, classes)
    if pretrained and options.pretrained_model:
        weights = best_of_run(options.pretrained_model)
        head = {"new_head": options.new_head} if options.new_head is not None else head_of(weights, classes)
        say(str(load_weights(model, weights, **head)))
    elif pretrained:
        say("no --pretrained-model: the weights are random")
    return prepared(model, options)


def prepared(model: SwinTransformer, options: Options) -> SwinTransformer:
    """The model in the options' precision, placed on the IPUs, with remaps where they are asked for."""
    if options.precision == "16.16":
        model.to(torch.half)
    place(model, options.layers_per_ipu, large_head=options.mapping_for_21k)
    if isinstance(options, TrainOptions) and (not is_host if options.remap is None else options.remap):
        load_library(Path(options.remap_so))
        remap_activations(model)
    return model


def load_trained_model(options: ValidationOptions, classes: List[str]) -> Tuple[SwinTransformer, Path]:
    """The trained model that the options name, and where its weights lay.

    Raises:
        UserError: there is none, or it was trained for other classes than the data's.
    """
    weights = Path(options.checkpoint)
    if (weights / "checkpoints").is_dir():
        weights = find(weights, "best") / "weights"
        if options.ema:
            weights = weights / AVERAGED
            if not weights.is_dir():
                raise UserError(f"{options.checkpoint} holds no averaged weights: leave out --ema")
    head = head_of(str(weights), classes)
    if head.get("new_head"):
        raise UserError(f"{weights} has no head for the data's classes: validate on the data that it was trained for")
    model = build_network(options, classes)
    say(str(load_weights(model, weights, **head)))
    return prepared(model, options), weights


def head_of(path: str, classes: List[str]) -> Dict[str, Any]:
    """How `load_weights` is to take over the head of weights for data of these classes.

    Where the weights' class names are known and hold all of the data's, rows are taken by name: from 22k classes to
    some of them, or to the same ones in another order. ImageNet-1k's come from the 22k as in `imagenet22k`. A head of
    as many classes without comparable names is kept as it is. Everything else gets a new head.
    """
    place = weight_files.locate(path)
    rows = [len(tensor) for name, tensor in weight_files.read_tensors(place).items() if name.endswith(_HEADS)]
    if not rows:
        return {"new_head": True}
    names = read_class_names(place)
    if rows[0] == imagenet22k.CLASSES and not set(names) & set(classes):
        names = imagenet22k.synsets()
    lacking = set(classes) - set(names)
    if len(names) == rows[0] and not lacking:
        position = {name: row for row, name in enumerate(names)}
        return {} if names == classes else {"head_rows": [position[name] for name in classes]}
    if rows[0] == imagenet22k.CLASSES:
        return {} if len(classes) == 1000 and lacking == {imagenet22k.TEDDY_BEAR} else {"new_head": True}
    if rows[0] != len(classes) or (len(classes) != 1000 and _are_names(names)):
        return {"new_head": True}
    if len(classes) == 1000 and not _are_imagenet(classes):
        say("the data's 1,000 classes are not ImageNet-1k's synsets: published weights number classes in their order")
    return {}


def _are_names(names: List[str]) -> bool:
    return bool(names) and not all(name.startswith("LABEL_") for name in names)


def _are_imagenet(classes: List[str]) -> bool:
    return hashlib.sha256("\n".join(classes).encode()).hexdigest() == IMAGENET_CLASSES_SHA256
