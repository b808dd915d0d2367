"""ViT-B/16 training: ours through vit_pytorch_gaudi's step, timm's and transformers' with either attention."""

from __future__ import annotations

from itertools import count
from typing import Any

import timm
from timm.layers import set_fused_attn
from transformers import AutoModelForImageClassification, ViTConfig

from benchmarks.contenders.common import CLASSES, Step, classifier_step, enter, images_and_labels, plain_step
from benchmarks.side_by_side import Settings

# Per the document SGD; AdamW here, as the peers have it, and dropout 0, which is theirs.
OPTIONS = ["--config", "upstream", "--name", "benchmark", "--dataset", "generated", "--num_classes", str(CLASSES)]
OPTIONS += ["--pretrained_dir", "none", "--optimizer", "AdamW", "--autocast", "--hidden_dropout_prob", "0"]
CONTENDERS = ["ours", "timm_explicit", "timm_fused", "transformers_eager"]


def ours(settings: Settings) -> Step:
    """The app's own step: uint8 images, normalised on the device, bfloat16 autocast, checked before the update."""
    enter("vit_pytorch_gaudi")
    from building import build_model
    from device import open_device
    from options import parse_options
    from recipe import derive
    from run.sampling import TrainingStream
    from training import Training

    words = [*OPTIONS, "--img_size", str(settings.image_size), "--train_batch_size", str(settings.batch_size)]
    options = parse_options([*words, "--device", settings.device])
    device = open_device(options)
    classes = [str(label) for label in range(CLASSES)]
    model = build_model(options, classes)
    training = Training(options, derive(options, settings.batch_size, model, 1, device), model, classes, device)
    batch = images_and_labels(settings)
    stream = TrainingStream(Images(settings.batch_size), seed=0, updates=10**6, global_batch=settings.batch_size)
    steps = count(1)
    return lambda: training.step(next(steps), stream, [batch]).tolist()


class Images:
    """As many samples as a batch has, only to be counted."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return self.samples

    def sample(self, epoch: int, index: int) -> Any:
        """None is ever asked for."""
        raise NotImplementedError


def timm_explicit(settings: Settings) -> Step:
    """timm with attention in plain operations."""
    set_fused_attn(False)
    return classifier_step(timm.create_model("vit_base_patch16_224", img_size=settings.image_size), settings)


def timm_fused(settings: Settings) -> Step:
    """timm with scaled_dot_product_attention, its default."""
    set_fused_attn(True)
    return classifier_step(timm.create_model("vit_base_patch16_224", img_size=settings.image_size), settings)


def transformers_eager(settings: Settings) -> Step:
    """transformers with attention in plain operations."""
    config = ViTConfig(image_size=settings.image_size)
    config.num_labels = CLASSES
    network = AutoModelForImageClassification.from_config(config, attn_implementation="eager")
    images, labels = images_and_labels(settings)
    inputs, targets = (images / 127.5 - 1).to(settings.device), labels.to(settings.device)
    return plain_step(network, lambda model: model(pixel_values=inputs, labels=targets).loss, settings)
