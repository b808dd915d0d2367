"""ViT training from JPEG files in class folders: the app's loader and step; DataLoader, ImageFolder and timm's model.

A step is a pass over the files with a fresh loader, so its start is in the figure; both sides have the same number of
loading processes, crops of the same kind and the same files.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, List, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from timm import create_model
from timm.layers import set_fused_attn
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks.contenders.common import flops_of, fuses_attention, matmul, peer, variants
from benchmarks.contenders.vit import PRECISION, SIZES, app_options
from benchmarks.interleaved import Built, Settings

CLASSES, BATCHES = 10, {"vit_b_end_to_end": 4, "vit_ti_end_to_end": 16}
CROP_SCALE = (0.05, 1.0)  # of the document's recipe


def make_images(folder: Path, count: int) -> None:
    """Write `count` JPEGs of 500 x 375 pixels and about 110 KB, as ImageNet's are, into class folders of `folder`."""
    random = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(np.clip(random.normal(128, 60, (94, 125, 3)), 0, 255).astype(np.uint8))
        texture = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)).astype(float)
        pixels = np.clip(texture + random.normal(0, 12, texture.shape), 0, 255).astype(np.uint8)
        path = folder / "train" / f"class_{number % CLASSES}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=90)


def workers() -> int:
    """Loading processes, on both sides."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


def _files(settings: Settings) -> Tuple[Any, int]:
    """A temporary folder with images, and how many."""
    folder, count = tempfile.TemporaryDirectory(), BATCHES[settings.work] * settings.batch_size
    make_images(Path(folder.name), count)
    return folder, count


def ours(settings: Settings) -> Built:
    """The app's loader, executor and step: what `ipu.loop` does between two reports."""
    folder, count = _files(settings)
    words = [
        "--dataset",
        "folder",
        "--dataset-path",
        folder.name,
        "--num-labels",
        str(CLASSES),
        "--dataloader-workers",
        str(workers()),
    ]
    options = app_options(settings, [*words, *PRECISION[settings.dtype]])
    from building import build_model
    from dataset import create_dataset
    from dataset.from_options import data_spec
    from ipu.loaders import training_loader
    from ipu_options import create_program
    from models.supervised import Supervised
    from run.sampling import TrainingStream
    from training import ViTTraining, describe_run

    data = create_dataset(data_spec(options, os.devnull), "train")
    network, program = build_model(options, data.classes), create_program(options)
    recipe = describe_run(options, program, count, network, 1)
    model, output = Supervised(network), Path(folder.name) / "run"
    training = ViTTraining(options, program, recipe, model, data.classes, output)

    def step() -> Tensor:
        stream = TrainingStream(data, seed=0, updates=BATCHES[settings.work], global_batch=program.global_batch)
        loss = torch.zeros(())
        for number, batch in enumerate(training_loader(program, training.ipu_options, stream, 1), 1):
            loss = training.step(number, stream, tuple(batch))[0]
        return loss

    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Built(step, lambda: flops_of(step), parameters, count, folder.cleanup)


def _image_folder(settings: Settings, variant: str) -> Built:
    """What one writes first: torchvision's ImageFolder with PIL and float images, a DataLoader, timm's model."""
    folder, count = _files(settings)
    half = (0.5, 0.5, 0.5)
    crop = transforms.RandomResizedCrop(settings.image_size, scale=CROP_SCALE)
    steps = [crop, transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize(half, half)]
    data = ImageFolder(str(Path(folder.name) / "train"), transforms.Compose(steps))
    pinned = settings.device == "cuda"
    loader = DataLoader(data, settings.batch_size, shuffle=True, num_workers=workers(), pin_memory=pinned)
    set_fused_attn(fuses_attention(settings, variant))
    network = create_model(SIZES[settings.work], img_size=settings.image_size, num_classes=CLASSES)
    now: List[Tensor] = []

    def forward(model: nn.Module) -> Tensor:
        output: Tensor = model(now[0])
        return output

    update = peer(network, forward, lambda logits: F.cross_entropy(logits.float(), now[1]), settings, variant)

    def step() -> Any:
        loss = None
        for images, labels in loader:
            now[:] = images.to(settings.device, non_blocking=True), labels.to(settings.device, non_blocking=True)
            loss = update.step()
        return loss

    return Built(step, lambda: flops_of(step), update.parameters, count, folder.cleanup)


CONTENDERS = {"ours": ours, **variants("image_folder", _image_folder), "matmul": matmul}
