"""Loaders of micro-batches: uint8 images (B, 3, S, S) and labels (B,)."""

from __future__ import annotations

import os
from typing import Union

import torch
from torch.utils.data import DataLoader

from options import TrainOptions
from run.launcher import cores_are_own
from run.sampling import EvaluationStream, TrainingStream
from run.signals import worker_init

MOST_WORKERS = 4  # of one process; upstream's number


def workers(options: TrainOptions, processes: int) -> int:
    """Loading processes of one training process: as asked, else its share of the host's cores less one.

    Args:
        options: of the run.
        processes: that train on this host.
    """
    if options.dataloader_workers is not None:
        return options.dataloader_workers
    cores = len(os.sched_getaffinity(0))
    if cores_are_own(processes):
        processes = 1
    return max(1, min(MOST_WORKERS, (cores - 1) // processes))


def loader(
    options: TrainOptions, stream: Union[TrainingStream, EvaluationStream], batch: int, *, pinned: bool, processes: int
) -> DataLoader:
    """Loader over this process's share of the samples, which `stream` holds in order, `batch` at a time."""
    count = workers(options, processes)
    return DataLoader(
        stream,
        batch_size=batch,
        num_workers=count,
        worker_init_fn=worker_init if count else None,
        pin_memory=pinned,
        # A generator of its own: a loader draws a seed, and the model's random numbers must not depend on loaders.
        generator=torch.Generator(),
    )
