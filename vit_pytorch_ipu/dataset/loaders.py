"""Data sets and PopTorch loaders from the scripts' options."""

from __future__ import annotations

import os
from typing import Any, Dict, Union

from dataset import DataSpec
from options import FinetuneOptions, ValidationOptions
from poptorch_host.backend import poptorch
from run.sampling import EvaluationStream, TrainingStream
from run.signals import worker_init

Options = Union[FinetuneOptions, ValidationOptions]
INPUT_TYPES = {"16.16": "float16", "16.32": "float16", "32.32": "float32"}


def data_spec(options: Options, bad_images: str) -> DataSpec:
    """What to read and how: the options of data and, in training, of augmentation.

    Args:
        options: of the script.
        bad_images: file that lists unreadable images.
    """
    augmentation: Dict[str, Any] = {}
    if isinstance(options, FinetuneOptions):
        augmentation = {
            "seed": options.random_seed,
            "random_flip": options.random_flip,
            "crop_scale_min": options.crop_scale_min,
            "extra_aug": options.extra_aug,
        }
    return DataSpec(
        name=options.dataset,
        path=options.dataset_path,
        image_size=options.image_size,
        num_classes=options.num_labels,
        dtype="uint8" if options.byteio else INPUT_TYPES[options.precision],
        download=options.download,
        eval_resize=options.eval_resize,
        bad_image_ratio=options.bad_image_ratio,
        bad_images=bad_images,
        size=options.iterations * samples_per_step(options),
        **augmentation,
    )


def samples_per_step(options: Options) -> int:
    """Samples of one host step over all processes: device iterations × global batch, in validation × micro-batch."""
    batch = global_batch(options) if isinstance(options, FinetuneOptions) else options.micro_batch_size
    return options.device_iterations * batch


def global_batch(options: FinetuneOptions) -> int:
    """Samples of one update: micro-batch × accumulation × replicas of all processes."""
    return options.micro_batch_size * options.gradient_accumulation * options.replication_factor


def workers(options: Options, processes: int) -> int:
    """Loading processes of one training process: as asked, else the cores less one, shared by the processes."""
    if options.dataloader_workers is not None:
        return options.dataloader_workers
    return max(1, (len(os.sched_getaffinity(0)) - 1) // processes)


def training_loader(options: FinetuneOptions, ipu_options: Any, stream: TrainingStream, processes: int) -> Any:
    """Loader over the rest of the run; `stream` already holds this process's share, in order."""
    rows = samples_per_step(options) // processes
    count = workers(options, processes)
    rebatched = min(options.rebatched_worker_size or rows, rows)
    mode = poptorch.DataLoaderMode.AsyncRebatched if rebatched < rows else poptorch.DataLoaderMode.Async
    settings = {"rebatched_worker_size": rebatched} if rebatched < rows else {}
    return _loader(options, ipu_options, stream, count, mode, **settings)


def evaluation_loader(options: Options, ipu_options: Any, stream: EvaluationStream, processes: int) -> Any:
    """Loader over this process's share of the validation split, each sample once."""
    return _loader(options, ipu_options, stream, workers(options, processes), poptorch.DataLoaderMode.Async)


def _loader(
    options: Options,
    ipu_options: Any,
    stream: Any,
    workers: int,
    mode: Any,
    **settings: Any,
) -> Any:
    return poptorch.DataLoader(
        ipu_options,
        stream,
        batch_size=options.micro_batch_size,
        shuffle=False,
        num_workers=workers,
        drop_last=True,
        auto_distributed_partitioning=False,
        worker_init_fn=worker_init,
        mode=mode if workers else poptorch.DataLoaderMode.Sync,
        **(settings if workers else {}),
    )
