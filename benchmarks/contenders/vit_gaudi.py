"""ViT-B/16: ours through vit_pytorch_gaudi's step and evaluation; timm's and transformers'."""

from __future__ import annotations

from itertools import count
from typing import Sequence

from benchmarks.contenders.common import CLASSES, Images, built, enter, images_and_labels, matmul, variants
from benchmarks.contenders.vit import timm_vit, transformers_vit
from benchmarks.interleaved import Built, Settings

# Per the document SGD; AdamW here, as the peers have it, and dropout 0, which is theirs.
OPTIONS = ["--config", "upstream", "--name", "benchmark", "--dataset", "generated", "--num_classes", str(CLASSES)]
OPTIONS += ["--pretrained_dir", "none", "--optimizer", "AdamW", "--weight_decay", "0.05", "--hidden_dropout_prob", "0"]
CLIP = 1.0  # the document's, on all sides


def ours(settings: Settings) -> Built:
    """The app's own step: uint8 images, normalised on the device, clipped and checked before the update."""
    return app_vit(settings)


def ours_compiled(settings: Settings) -> Built:
    """The same with --mode compile."""
    return app_vit(settings, extra=["--mode", "compile"])


def app_vit(settings: Settings, *, extra: Sequence[str] = (), cards: int = 1) -> Built:
    """This process's step or evaluation of the app; `cards` processes share a batch, each with rows of its own."""
    enter("vit_pytorch_gaudi")
    from building import build_model
    from device import open_device
    from evaluation import Evaluator
    from options import parse_options
    from recipe import derive
    from run.sampling import TrainingStream
    from training import Training

    images, size = Images(settings.batch_size), str(settings.batch_size // cards)
    words = [*OPTIONS, *extra, "--img_size", str(settings.image_size), "--train_batch_size", size]
    words += ["--eval_batch_size", size, "--max_grad_norm", str(CLIP), "--device", settings.device]
    options = parse_options(words + ["--autocast"] * (settings.dtype == "bf16"))
    device = open_device(options)
    classes = [str(label) for label in range(CLASSES)]
    model = build_model(options, classes)
    training = Training(options, derive(options, len(images), model, cards, device), model, classes, device)
    pixels, labels = images_and_labels(settings)
    if settings.mode == "inference":
        evaluator = Evaluator(options, training.supervised, training.forward, images, device)
        evaluator.batches = [(pixels, labels)]
        return built(evaluator, model.parameters())
    rows = slice(settings.batch_size // cards)
    stream = TrainingStream(images, seed=0, updates=10**6, global_batch=len(images))
    steps = count(1)
    return built(lambda: training.step(next(steps), stream, [(pixels[rows], labels[rows])]), model.parameters())


def _timm(settings: Settings, variant: str) -> Built:
    return timm_vit(settings, variant, clip=CLIP)


def _transformers(settings: Settings, variant: str) -> Built:
    return transformers_vit(settings, variant, clip=CLIP)


CONTENDERS = {
    "ours": ours,
    "ours_compiled": ours_compiled,
    **variants("timm", _timm),
    **variants("transformers", _transformers),
    "matmul": matmul,
}
