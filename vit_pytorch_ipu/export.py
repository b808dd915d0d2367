"""A trained model as files for other programs: ONNX, checked against the model, or safetensors."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import warnings
from pathlib import Path

import torch

from classifier import Classifier
from prediction_options import PredictionOptions
from run.errors import UserError
from weights import save_weights

TOLERANCE = 1e-4
_PROTOBUF_LIMIT = 2**31 - 2**24  # a protobuf ends at 2 GiB; larger weights lie in a file beside it


def export(options: PredictionOptions, classifier: Classifier) -> str:
    """Write the model to the output in the format that the options name; what was written, in a line."""
    output, place = Path(str(options.output)), classifier.place
    if options.export == "onnx":
        difference = export_onnx(classifier, output)
        return f"{output}: largest difference of a logit from the model's {difference:.1e}"
    if output.resolve() == (place if place.is_dir() else place.parent).resolve():
        raise UserError(f"{output} is the checkpoint itself: give another --output")
    resize = classifier.preparation.eval_resize
    save_weights(classifier.model, output, options.layout, class_names=classifier.labels, eval_resize=resize)
    return f"{output}: float32 weights in the {options.layout} layout"


def export_onnx(classifier: Classifier, path: Path) -> float:
    """Write `images` (batch, 3, height, width), float32 and normalised -> `logits` (batch, C); the batch is free.

    Class names and preparation go into the file's metadata as JSON.

    Returns:
        The largest difference of a logit between onnxruntime and the model, over batches of 1, 2 and 5 random images.

    Raises:
        UserError: torch is too old, a package is missing, or the difference is above TOLERANCE; then no file is left.
    """
    if "dynamic_shapes" not in inspect.signature(torch.onnx.export).parameters:
        raise UserError(f"torch {torch.__version__} can't export: use torch 2.5 or later, the weights are the same")
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 (torch.onnx needs it and says so less clearly)
    except ImportError as error:
        raise UserError(f"{error.name} is missing: pip install -r requirements.txt") from error

    model = classifier.model.cpu().eval()
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(count, 3, *model.config.image_size, generator=generator) for count in (2, 1, 5)]
    # Progress would get in the way of --json, and torch 2.12 warns of its own use of what it deprecates.
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        program = torch.onnx.export(
            model,
            (batches[0],),
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        )
    assert program is not None
    described = {"class_names": classifier.labels, "preparation": vars(classifier.preparation)}
    program.model.metadata_props.update({name: json.dumps(value) for name, value in described.items()})
    program.save(str(path), external_data=size > _PROTOBUF_LIMIT)

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    difference = 0.0
    with torch.inference_mode():
        for images in batches:
            (logits,) = session.run(["logits"], {"images": images.numpy()})
            difference = max(difference, float((torch.from_numpy(logits) - model(images)).abs().max()))
    if not difference <= TOLERANCE:
        for file in (path, path.with_name(path.name + ".data")):
            if file.exists():
                file.unlink()
        raise UserError(f"the ONNX file's logits differed from the model's by {difference:.1e}, so it was removed")
    return difference
