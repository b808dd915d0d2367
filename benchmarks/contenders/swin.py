"""Swin-T: ours through the app's executor; timm's and torchvision's as shipped, tuned and compiled."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import timm
import torchvision

from benchmarks.contenders.common import (
    CLASSES,
    Images,
    built,
    classifier,
    compiled,
    enter,
    images_and_labels,
    matmul,
    variants,
)
from benchmarks.interleaved import Built, Settings

# The document's recipe on one replica without what the peers' steps don't have.
OPTIONS = ["--cfg", "SWIN_TINY", "--ga", "1", "--replicas", "1", "--generated-data", "--layers-per-ipu", "12"]
OPTIONS += ["--mixup", "0", "--cutmix", "0", "--drop-path-rate", "0", "--clip-grad", "0"]
SMOOTHING = 0.1  # the recipe's
PRECISION = {"bf16": "16.16", "fp32": "32.32"}


def ours(settings: Settings) -> Built:
    """The app's own step: uint8 images, normalised on the device, checked before the update."""
    return _ours(settings, PRECISION[settings.dtype])


def ours_mixed(settings: Settings) -> Built:
    """The same with --precision mixed, which keeps weights and residuals in float32, as the peers do."""
    return _ours(settings, "mixed")


def _ours(settings: Settings, precision: str) -> Built:
    enter("swin_pytorch_ipu")
    from building import build_model
    from ipu.evaluation import Evaluator
    from ipu_options import create_program, evaluation_program
    from lengths import recipe_of
    from options import TrainOptions
    from run.options import parse
    from run.sampling import TrainingStream
    from training import SwinTraining

    words = [*OPTIONS, "--precision", precision, "--batch-size", str(settings.batch_size)]
    words += ["--img-size", str(settings.image_size)]
    options = parse(TrainOptions, words, configs=Path("configs.yml"), script="train_swin.py", description="")
    classes = [str(label) for label in range(CLASSES)]
    network, program = build_model(options, classes), create_program(options)
    recipe = recipe_of(options, program, settings.batch_size, network)
    training = SwinTraining(options, program, recipe, network, None, classes, Path(options.output))
    batch = images_and_labels(settings)
    if settings.mode == "inference":
        evaluator = Evaluator(evaluation_program(options), training.model.eval(), Images(settings.batch_size))
        return built(lambda: evaluator.executor(batch[0]), network.parameters())
    stream = TrainingStream(batch[1], seed=0, updates=recipe.updates, global_batch=program.global_batch)
    steps = count(1)
    return built(lambda: training.step(next(steps), stream, batch)[0], network.parameters())


def _timm(settings: Settings, variant: str) -> Built:
    """timm's, whose attention is in plain operations unless one insists; SDPA is the slower one in small windows."""
    model = timm.create_model("swin_tiny_patch4_window7_224", img_size=settings.image_size, drop_path_rate=0.0)
    return classifier(model, settings, variant, smoothing=SMOOTHING)


def _torchvision(settings: Settings, variant: str) -> Built:
    """torchvision's, which has plain operations only."""
    model = torchvision.models.swin_t()
    for module in model.modules():
        if isinstance(module, torchvision.ops.StochasticDepth):
            module.p = 0.0  # as on the other sides; swin_t takes no argument for it
    return classifier(model, settings, variant, smoothing=SMOOTHING)


CONTENDERS = {
    "ours": ours,
    "ours_compiled": compiled(ours),
    "ours_mixed": ours_mixed,
    **variants("timm", _timm),
    **variants("torchvision", _torchvision),
    "matmul": matmul,
}
