"""Options of predict.py, which has no config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional

from models import SIZES
from run.errors import UsageError
from run.option_values import REQUIRED, Only
from run.options import option
from weights import SAVE_LAYOUTS

_EXPORT = Only("with --export", lambda given: given.export)
_MODEL = Only("with --model-type", lambda given: given.model_type)


@dataclass(frozen=True)
class PredictionOptions:
    """Prediction."""

    checkpoint: str = option(
        help="run folder (its best checkpoint; RUN/latest or RUN/step-N for another), weights or hub name",
        aliases=("pretrained_dir",),
    )
    images: List[str] = option([], "files, folders or globs; the flag may be left out")
    json: bool = option(False, "print JSON instead of a table")
    attention: Optional[str] = option(
        None, "draw attention rollout: the PNG of one image, or a folder for NAME.attention.png of each"
    )
    export: Optional[str] = option(None, "write the weights to this folder, or .npz file, for other programs")
    layout: str = option("huggingface", "names of the exported tensors", choices=SAVE_LAYOUTS, only=_EXPORT)
    img_size: Optional[int] = option(None, "side of the input; none takes the checkpoint's", unit="pixels", minimum=1)
    model_type: Optional[str] = option(
        None, "size and patch, for weights that do not say themselves, such as .npz", choices=tuple(SIZES)
    )
    num_classes: int = option(1000, "classes", minimum=1, only=_MODEL)
    micro_batch_size: int = option(8, "images of one forward pass", minimum=1)
    debug: bool = option(False, "show where in the program an error comes from")

    def __post_init__(self) -> None:
        if self.checkpoint is REQUIRED:
            raise UsageError("--checkpoint is required: give a run folder, a weight file or a hub name")
        if not self.images and not self.export:
            raise UsageError("no image is given: name files, folders or globs, or --export the weights")
        if self.attention and not self.images:
            raise UsageError("--attention draws on images: name files, folders or globs")
        if self.export and self.export.endswith(".npz") != (self.layout == "npz"):
            raise UsageError(
                f"--export {self.export} --layout {self.layout}: .npz files have layout npz, folders another"
            )
