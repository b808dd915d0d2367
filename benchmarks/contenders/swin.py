"""Swin-T training: ours through the app's executor, timm's with either attention, torchvision's."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import timm
import torchvision
from timm.layers import set_fused_attn

from benchmarks.contenders.common import CLASSES, Step, classifier_step, enter, images_and_labels
from benchmarks.side_by_side import Settings

# The document's recipe on one replica, in half precision, without what the peers' steps don't have.
OPTIONS = ["--cfg", "SWIN_TINY", "--ga", "1", "--replicas", "1", "--precision", "16.16", "--generated-data"]
OPTIONS += ["--mixup", "0", "--cutmix", "0", "--drop-path-rate", "0", "--clip-grad", "0", "--layers-per-ipu", "12"]
CONTENDERS = ["ours", "timm_explicit", "timm_fused", "torchvision_explicit"]


def ours(settings: Settings) -> Step:
    """The app's own step: uint8 images, normalised on the device, bfloat16, checked before the update."""
    enter("swin_pytorch_ipu")
    from building import build_model
    from ipu_options import create_program
    from lengths import recipe_of
    from options import TrainOptions
    from run.options import parse
    from run.sampling import TrainingStream
    from training import SwinTraining

    words = [*OPTIONS, "--batch-size", str(settings.batch_size)]
    options = parse(TrainOptions, words, configs=Path("configs.yml"), script="train_swin.py", description="")
    classes = [str(label) for label in range(CLASSES)]
    network, program = build_model(options, classes), create_program(options)
    recipe = recipe_of(options, program, settings.batch_size, network)
    training = SwinTraining(options, program, recipe, network, None, classes, Path(options.output))
    batch = images_and_labels(settings)
    stream = TrainingStream(batch[1], seed=0, updates=recipe.updates, global_batch=program.global_batch)
    steps = count(1)
    return lambda: training.step(next(steps), stream, batch)[0].tolist()


def timm_explicit(settings: Settings) -> Step:
    """timm with attention in plain operations, its default."""
    set_fused_attn(False)
    return classifier_step(timm.create_model("swin_tiny_patch4_window7_224", img_size=settings.image_size), settings)


def timm_fused(settings: Settings) -> Step:
    """timm with scaled_dot_product_attention."""
    set_fused_attn(True, experimental=True)
    return classifier_step(timm.create_model("swin_tiny_patch4_window7_224", img_size=settings.image_size), settings)


def torchvision_explicit(settings: Settings) -> Step:
    """torchvision, which has plain operations only."""
    model = torchvision.models.swin_t()
    for module in model.modules():
        if isinstance(module, torchvision.ops.StochasticDepth):
            module.p = 0.0  # as in the other contenders
    return classifier_step(model, settings)
