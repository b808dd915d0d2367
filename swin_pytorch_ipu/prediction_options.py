"""Options of predict.py, which has no config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional

from models import SIZES
from preparation import EVAL_RESIZES
from run.errors import UsageError
from run.option_values import REQUIRED, Only
from run.options import option
from weights import SAVE_LAYOUTS

_WRITES = Only("with --activation or --export", lambda given: given.activation or given.export)
_SAFETENSORS = Only("with --export safetensors", lambda given: given.export == "safetensors")
_MODEL = Only("with --model", lambda given: given.model)


@dataclass(frozen=True)
class PredictionOptions:
    """Prediction."""

    checkpoint: str = option(
        help="run folder (its best checkpoint; RUN/latest or RUN/step-N for another), weights or hub name",
        aliases=("pretrained_checkpoint", "pretrained"),
    )
    images: List[str] = option([], "files, folders or globs; the flag may be left out")
    json: bool = option(False, "print JSON instead of a table")
    activation: bool = option(
        False, "write NAME.activation.png for each image: which places spoke for its class", aliases=("attention",)
    )
    export: Optional[str] = option(None, "write the model in this format", choices=("onnx", "safetensors"))
    layout: str = option("official", "names of the tensors", choices=SAVE_LAYOUTS, only=_SAFETENSORS)
    output: Optional[str] = option(
        None, "folder of the pictures, by default each image's; file or folder of the export", only=_WRITES
    )
    eval_resize: Optional[str] = option(
        None,
        "crop = resize by 256/224, cut the centre; direct = resize; none takes the checkpoint's, else crop",
        choices=EVAL_RESIZES,
    )
    image_size: Optional[int] = option(
        None, "side of a square input; none takes the checkpoint's", unit="pixels", minimum=1
    )
    model: Optional[str] = option(None, "size and window, for weights that do not say themselves", choices=tuple(SIZES))
    num_labels: int = option(1000, "classes", minimum=1, only=_MODEL)
    micro_batch_size: int = option(8, "images of one forward pass", minimum=1)
    debug: bool = option(False, "show where in the program an error comes from")

    def __post_init__(self) -> None:
        if self.checkpoint is REQUIRED:
            raise UsageError("--checkpoint is required: give a run folder, a weight file or a hub name")
        if not self.images and not self.export:
            raise UsageError("no image is given: name files, folders or globs, or --export the model")
        if self.activation and (self.export or not self.images):
            raise UsageError("--activation draws on images and is not for --export: give them in two commands")
        if self.export and not self.output:
            raise UsageError("--export needs --output, the file or folder to write")
        if self.export == "onnx" and not str(self.output).endswith(".onnx"):
            raise UsageError(f"--output {self.output} should end in .onnx")
