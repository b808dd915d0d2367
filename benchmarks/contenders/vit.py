"""ViT-B/16 and ViT-Ti/16: ours through vit_pytorch_ipu's executor; timm's and transformers'."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, Optional, Sequence

import timm
from timm.layers import set_fused_attn
from transformers import AutoModelForImageClassification, ViTConfig

from benchmarks.contenders.common import (
    CLASSES,
    Images,
    built,
    classifier,
    compiled,
    enter,
    fuses_attention,
    images_and_labels,
    matmul,
    variants,
)
from benchmarks.interleaved import Built, Settings

BASE, TINY = "vit_base_patch16_224", "vit_tiny_patch16_224"  # the app's names, and timm's
SIZES = {"vit_b": BASE, "vit_ti": TINY, "vit_gaudi": BASE, "vit_b_end_to_end": BASE, "vit_ti_end_to_end": TINY}
# The document's fine-tuning on one replica, with the peers' optimizer and dropout.
OPTIONS = [
    "--config",
    "b16_imagenet1k",
    "--dataset",
    "generated",
    "--pretrained-checkpoint",
    "none",
]
OPTIONS += ["--gradient-accumulation", "1", "--replication-factor", "1", "--device-iterations", "1"]
OPTIONS += ["--layers-per-ipu", "12", "--optimizer", "AdamW", "--weight-decay", "0.05", "--learning-rate", "1e-4"]
OPTIONS += ["--hidden-dropout-prob", "0"]
PRECISION = {"bf16": ["--precision", "16.16", "--byteio"], "fp32": ["--precision", "32.32", "--byteio"]}
MIXED = ["--precision", "16.32"]  # which takes its images in float16


def ours(settings: Settings) -> Built:
    """The app's own step: uint8 images, normalised on the device, checked before the update."""
    return _ours(settings, PRECISION[settings.dtype])


def ours_mixed(settings: Settings) -> Built:
    """The same with --precision 16.32, which keeps weights and residuals in float32, as the peers do."""
    return _ours(settings, MIXED)


def app_options(settings: Settings, words: Sequence[str]) -> Any:
    """Enter the app; its options of a run as the settings say, with `words` on the command line."""
    enter("vit_pytorch_ipu")
    from options import FinetuneOptions
    from run.options import parse

    sizes = ["--micro-batch-size", str(settings.batch_size), "--image-size", str(settings.image_size)]
    given = [*OPTIONS, "--model", SIZES[settings.work], *sizes, *words]
    return parse(FinetuneOptions, given, configs=Path("configs.yml"), script="finetune.py", description="")


def _ours(settings: Settings, precision: Sequence[str]) -> Built:
    options = app_options(settings, ["--dataset", "generated", "--num-labels", str(CLASSES), *precision])
    from building import build_model
    from ipu.evaluation import Evaluator
    from ipu_options import create_program
    from models.supervised import Supervised
    from run.sampling import TrainingStream
    from training import ViTTraining, describe_run

    classes = [str(label) for label in range(CLASSES)]
    network, program = build_model(options, classes), create_program(options)
    model, batch = Supervised(network), images_and_labels(settings)
    if precision == MIXED:
        batch = (batch[0] / 127.5 - 1).half(), batch[1]
    if settings.mode == "inference":
        evaluator = Evaluator(replace(program, device_iterations=1), model.eval(), Images(settings.batch_size))
        return built(lambda: evaluator.executor(batch[0]), network.parameters())
    recipe = describe_run(options, program, settings.batch_size, network, 1)
    training = ViTTraining(options, program, recipe, model, classes, Path(options.output))  # nothing is saved
    stream = TrainingStream(batch[1], seed=0, updates=recipe.updates, global_batch=program.global_batch)
    steps = count(1)
    return built(lambda: training.step(next(steps), stream, batch)[0], network.parameters())


def timm_vit(settings: Settings, variant: str, clip: Optional[float] = None) -> Built:
    """timm's, with scaled_dot_product_attention as shipped."""
    set_fused_attn(fuses_attention(settings, variant))
    network = timm.create_model(SIZES[settings.work], img_size=settings.image_size)
    return classifier(network, settings, variant, clip=clip)


def transformers_vit(settings: Settings, variant: str, clip: Optional[float] = None) -> Built:
    """transformers', with scaled_dot_product_attention as shipped."""
    config = ViTConfig(image_size=settings.image_size)
    if SIZES[settings.work] == TINY:
        config.update({"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768})
    config.num_labels = CLASSES
    attention = "sdpa" if fuses_attention(settings, variant) else "eager"
    network = AutoModelForImageClassification.from_config(config, attn_implementation=attention)
    return classifier(network, settings, variant, clip=clip)


CONTENDERS = {
    "ours": ours,
    "ours_compiled": compiled(ours),
    "ours_mixed": ours_mixed,
    **variants("timm", timm_vit),
    **variants("transformers", transformers_vit),
    "matmul": matmul,
}
