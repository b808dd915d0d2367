"""A trained model with all that prediction needs: class names and how its images are prepared."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Tuple

import torch
from torch import Tensor

from models import SwinTransformer, create_model
from prediction_options import PredictionOptions
from preparation import Preparation, read_preparation
from run import weight_files
from run.checkpoints import find
from run.errors import UserError
from run.images import BadImageError, decode_rgb
from run.load_report import LoadReport
from weights import load_weights, read_class_names, read_config

# SHA-256 of ImageNet-1k's synsets in order, with a space between them.
_SYNSETS = "791ce0333040dd249d13133f90d28ef0263ffc01e5de0afd85b3e32048d7d456"


class Classifier(NamedTuple):
    """Model in float32 and evaluation mode, a label per output, readable names (the labels where there are none)."""

    model: SwinTransformer
    labels: List[str]
    names: List[str]
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
        raise UserError(f"{place} can't be built: {error}") from error
    if not model.config.num_classes:
        raise UserError(f"{place} has no classification head: fine-tune it first, or give another checkpoint")
    report = load_weights(model, place)
    labels = read_class_names(place) or [f"LABEL_{index}" for index in range(model.config.num_classes)]
    described = weight_files.read_preprocessor(place)
    preparation = read_preparation(described, model.config.image_size, options.eval_resize)
    return Classifier(model, labels, readable(labels), preparation, place, report)


def readable(labels: List[str]) -> List[str]:
    """ImageNet-1k's words for its 1000 synsets in order, or for 1000 classes without names; else the labels."""
    unnamed = [f"LABEL_{index}" for index in range(1000)]
    if labels != unnamed and hashlib.sha256(" ".join(labels).encode()).hexdigest() != _SYNSETS:
        return labels
    from torchvision.models import Swin_T_Weights  # its list is in the order of the synsets

    return list(Swin_T_Weights.IMAGENET1K_V1.meta["categories"])


def prepared(
    paths: Iterable[Path], preparation: Preparation, batch: int, bad: Dict[str, str]
) -> Iterator[Tuple[List[Path], Tensor]]:
    """Batches of at most `batch` readable images, (B, 3, height, width) uint8, with their paths; others go to `bad`."""
    names: List[Path] = []
    images: List[Tensor] = []
    for path in paths:
        try:
            images.append(preparation.cut(decode_rgb(str(path))))
            names.append(path)
        except BadImageError as error:
            bad[str(path)] = str(error)
        if len(images) == batch:
            yield names, torch.stack(images)
            names, images = [], []
    if images:
        yield names, torch.stack(images)


def top(classifier: Classifier, logits: Tensor, count: int = 5) -> List[List[Dict[str, Any]]]:
    """The likeliest classes of each row of logits (B, C), best first: index, label, name, probability."""
    values, indices = logits.float().softmax(dim=-1).topk(min(count, logits.shape[-1]), dim=-1)
    return [
        [
            {"index": i, "label": classifier.labels[i], "name": classifier.names[i], "probability": p}
            for i, p in zip(row, probabilities)
        ]
        for row, probabilities in zip(indices.tolist(), values.tolist())
    ]
