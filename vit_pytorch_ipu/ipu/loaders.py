"""PopTorch loaders over streams of samples."""

from __future__ import annotations

import os
from typing import Any

from ipu.program import Program
from poptorch_host.backend import poptorch
from run.launcher import cores_are_own, local_size
from run.sampling import EvaluationStream, TrainingStream
from run.signals import worker_init


def workers(program: Program, processes: int) -> int:
    """Loading processes of one of `processes`: as asked, else its share of the host's cores less one."""
    if program.workers is not None:
        return program.workers
    here = min(processes, local_size())
    return max(1, (len(os.sched_getaffinity(0)) - 1) // (1 if cores_are_own(here) else here))


def training_loader(program: Program, ipu_options: Any, stream: TrainingStream, processes: int) -> Any:
    """Loader over the rest of the run; `stream` already holds this process's share, in order."""
    rows = program.samples_per_step // processes
    rebatched = min(program.rebatched_worker_size or rows, rows)
    if rebatched < rows and program.asynchronous:
        mode, settings = poptorch.DataLoaderMode.AsyncRebatched, {"rebatched_worker_size": rebatched}
        return _loader(program, ipu_options, stream, processes, mode, **settings)
    return _loader(program, ipu_options, stream, processes, poptorch.DataLoaderMode.Async)


def evaluation_loader(program: Program, ipu_options: Any, stream: EvaluationStream, processes: int) -> Any:
    """Loader over this process's share of the validation split, each sample once."""
    return _loader(program, ipu_options, stream, processes, poptorch.DataLoaderMode.Async)


def _loader(
    program: Program,
    ipu_options: Any,
    stream: Any,
    processes: int,
    mode: Any,
    **settings: Any,
) -> Any:
    count = workers(program, processes)
    return poptorch.DataLoader(
        ipu_options,
        stream,
        batch_size=program.micro_batch_size,
        shuffle=False,
        num_workers=count,
        drop_last=True,
        auto_distributed_partitioning=False,
        worker_init_fn=worker_init,
        mode=mode if count and program.asynchronous else poptorch.DataLoaderMode.Sync,
        **(settings if count else {}),
    )
