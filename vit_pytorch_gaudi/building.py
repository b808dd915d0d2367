"""The model of a run, from options and weights."""

from __future__ import annotations

from pathlib import Path
from typing import List

from models import create_model
from models.vit import VisionTransformer
from options import TrainOptions
from run.distributed import is_main
from run.errors import UsageError, UserError
from weights import load_weights

GOOGLES = "https://storage.googleapis.com/vit_models/imagenet21k"


def require_weights(options: TrainOptions) -> None:
    """Check, which takes no time, that Google's file is there if the options name one.

    Raises:
        UserError: it is not.
    """
    path = options.pretrained_dir
    if path.endswith(".npz") and not Path(path).exists() and not options.internal_perf_measure:
        file = options.model_type.replace("R50-", "R50+") + ".npz"
        raise UserError(
            f"--pretrained-dir {path} does not exist: fetch {GOOGLES}/{file}, or give none for random weights"
        )


def build_model(options: TrainOptions, classes: List[str], *, pretrained: bool = True) -> VisionTransformer:
    """A ViT for `classes`, on the CPU.

    Args:
        options: of the run.
        classes: class names of the data.
        pretrained: load the weights that the options name. A run that is resumed does not need them any more.

    Raises:
        UsageError: sizes that make no model.
        UserError: weights that can't be read or don't fit.
    """
    try:
        model = create_model(
            options.model_type, image_size=options.img_size, num_classes=len(classes), **options.sizes()
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    path = options.pretrained_dir
    if not pretrained or path == "none":
        return model
    if options.internal_perf_measure and not Path(path).exists():
        report = f"{path} is not there: training starts from random weights"
    else:
        report = str(load_weights(model, path, new_head=options.new_head))
    if is_main():
        print(report, flush=True)
    return model
