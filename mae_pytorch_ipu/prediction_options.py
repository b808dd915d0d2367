"""Options of predict.py, visualize.py and convert.py, which have no config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional

from preparation import EVAL_RESIZES
from run.errors import UsageError
from run.option_values import REQUIRED, Only
from run.options import option
from weights import SAVE_LAYOUTS

_PICTURES = Only("with --attention", lambda given: given.attention)


@dataclass(frozen=True)
class ImageOptions:
    """Checkpoint and images."""

    checkpoint: str = option(
        help="run folder (its best checkpoint; RUN/latest or RUN/step-N for another), weights or hub name",
        aliases=("resume", "finetune"),
    )
    images: List[str] = option([], "files, folders or globs; the flag may be left out")
    eval_resize: Optional[str] = option(
        None,
        "crop = shorter side to size / 0.875, cut the centre; direct = resize; none takes the checkpoint's, else crop",
        choices=EVAL_RESIZES,
    )
    image_size: Optional[int] = option(None, "side of the input; none takes the checkpoint's", unit="pixels", minimum=1)
    micro_batch_size: int = option(8, "images of one forward pass", minimum=1)
    debug: bool = option(False, "show where in the program an error comes from")

    def __post_init__(self) -> None:
        if self.checkpoint is REQUIRED:
            raise UsageError("--checkpoint is required: give a run folder, a weight file or a hub name")
        if not self.images:
            raise UsageError("no image is given: name files, folders or globs")


@dataclass(frozen=True)
class PredictionOptions(ImageOptions):
    """Prediction."""

    json: bool = option(False, "print JSON instead of a table")
    attention: bool = option(False, "write NAME.attention.png for each image: attention rollout")
    output: Optional[str] = option(None, "folder of the attention pictures, by default each image's", only=_PICTURES)


@dataclass(frozen=True)
class VisualisationOptions(ImageOptions):
    """Reconstruction."""

    mask_ratio: Optional[float] = option(
        None, "share of patches that are masked; none takes the checkpoint's", minimum=0, maximum=1
    )
    norm_pix_loss: Optional[bool] = option(
        None, "the decoder was trained on normalised pixels; none takes what the checkpoint or its name says"
    )
    seed: int = option(0, "of the masks", minimum=0)
    output: Optional[str] = option(None, "folder of the pictures, by default each image's")


@dataclass(frozen=True)
class ConversionOptions:
    """Conversion."""

    checkpoint: str = option(help="run folder (its best checkpoint), weights or hub name")
    output: str = option(help="folder to write")
    layout: str = option(
        "huggingface", "who reads it: this app, published code, timm, transformers", choices=SAVE_LAYOUTS
    )
    encoder_only: bool = option(False, "leave out the decoder")
    debug: bool = option(False, "show where in the program an error comes from")

    def __post_init__(self) -> None:
        for name in ("checkpoint", "output"):
            if getattr(self, name) in (REQUIRED, ""):
                raise UsageError(f"--{name} is required")
