"""A trained model with what using it needs, from the place that a user names."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, NamedTuple, Optional, Union

from models import PRETRAINING, SIZES, Model, create_model
from preparation import Preparation, read_preparation
from run import weight_files
from run.checkpoints import best_of_run
from run.errors import UserError
from run.load_report import LoadReport
from weights import load_weights, no_decoder, read_config, read_description


class Loaded(NamedTuple):
    """Model in float32 and evaluation mode, how its images are prepared, where it lay and what was loaded."""

    model: Model
    preparation: Preparation
    place: Path
    report: LoadReport


def locate(path: Union[str, Path]) -> Path:
    """Weights that a user means: a run folder's best ones, the latest of a run without a metric, or those at `path`."""
    return weight_files.locate(best_of_run(path))


def load_model(
    path: Union[str, Path],
    *,
    reconstructs: bool,
    image_size: Optional[int] = None,
    eval_resize: Optional[str] = None,
    **changes: Any,
) -> Loaded:
    """The model of a checkpoint: a run folder's best or else latest one, or whatever `load_weights` takes.

    Args:
        path: of it.
        reconstructs: whether an autoencoder is wanted or a classifier.
        image_size: side of the input, by default the checkpoint's.
        eval_resize: by default the checkpoint's.
        changes: fields of the model's configuration; those that are None stay the checkpoint's.

    Raises:
        UserError: there is none of this kind, or it does not look at square RGB images.
    """
    place = locate(path)
    arguments: Dict[str, Any] = read_config(place)
    if reconstructs and arguments["name"] not in PRETRAINING:
        raise no_decoder(place, arguments["width"] if "width" in arguments else SIZES[arguments["name"]]["width"])
    if not reconstructs and not arguments.get("num_classes"):
        raise UserError(f"{place} has no classification head: fine-tune it first, or give another checkpoint")
    if image_size is not None:
        arguments["image_size"] = image_size
    arguments.update({name: value for name, value in changes.items() if value is not None})
    try:
        model = create_model(**arguments).eval()
    except (ValueError, TypeError) as error:
        raise UserError(f"{place}: {error}") from error
    height, width = model.config.image_size
    if height != width:
        raise UserError(f"{place} wants images of {height}×{width}: give a square --image-size")
    preparation = read_preparation(read_description(place), height, eval_resize)
    if model.config.in_channels != 3 or len(preparation.mean) != 3:
        raise UserError(f"{place} wants images of {model.config.in_channels} channels, and image files have 3")
    return Loaded(model, preparation, place, load_weights(model, place))
