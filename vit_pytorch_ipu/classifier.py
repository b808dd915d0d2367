"""A trained model with all that prediction needs: class names and how its images are prepared."""

from __future__ import annotations

from pathlib import Path
from typing import List, NamedTuple

from models import create_model
from models.vit import VisionTransformer
from prediction_options import PredictionOptions
from preparation import Preparation, read_preparation
from run import weight_files
from run.checkpoints import find
from run.errors import UsageError, UserError
from run.load_report import LoadReport
from weights import load_weights, read_class_names, read_config


class Classifier(NamedTuple):
    """Model in float32 and evaluation mode, a label per output and how its images are prepared."""

    model: VisionTransformer
    labels: List[str]
    preparation: Preparation
    place: Path
    report: LoadReport


def load_classifier(options: PredictionOptions) -> Classifier:
    """The classifier that the options name.

    Raises:
        UserError: there is none, or it has no head.
    """
    place = Path(options.checkpoint)
    if (place / "checkpoints").is_dir():
        place = find(place, "best")
    place = weight_files.locate(place)
    if options.model is None:
        arguments = read_config(place)
    else:
        arguments = {"name": options.model, "num_classes": options.num_labels}
    if options.image_size is not None:
        arguments["image_size"] = options.image_size
    try:
        model = create_model(**arguments).eval()
    except ValueError as error:
        raise UsageError(str(error)) from error
    if not model.config.num_classes:
        raise UserError(f"{place} has no classification head: fine-tune it first, or give another checkpoint")
    if len(set(model.config.image_size)) != 1:
        raise UserError(f"{place} wants images of %d×%d: give a square --image-size" % model.config.image_size)
    report = load_weights(model, place)
    labels = read_class_names(place) or [f"LABEL_{index}" for index in range(model.config.num_classes)]
    described = weight_files.read_preprocessor(place)
    preparation = read_preparation(described, model.config.image_size[0], options.eval_resize)
    return Classifier(model, labels, preparation, place, report)
