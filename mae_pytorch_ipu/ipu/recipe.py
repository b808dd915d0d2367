"""The numbers of a run: what the options amount to for this data and this model."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, Optional

import torch
from torch import nn

from ipu import host
from ipu.program import Program
from poptorch_host.backend import is_host, reason
from run.distributed import is_main
from run.errors import UsageError
from run.files import write_atomically
from run.options import CommonOptions, RunOptions, as_dict, show, write


@dataclass(frozen=True)
class Schedule:
    """How long a run is: host steps, calls of the device, each of the program's device iterations."""

    steps: int
    updates: int
    updates_per_epoch: int

    @property
    def epochs(self) -> float:
        """Passes over the data."""
        return self.updates / self.updates_per_epoch


def schedule(program: Program, samples: int, processes: int, *, epochs: float = 0, steps: int = 0) -> Schedule:
    """Length of a run over `samples` samples: `epochs` where above 0, else `steps` host steps.

    Raises:
        UsageError: no length given, too few samples for one update, or replicas not divisible by the processes.
    """
    if program.replicas % processes:
        raise UsageError(
            "%d replicas can't be dealt out to %d processes: change one of the numbers" % (program.replicas, processes)
        )
    updates_per_epoch = samples // program.global_batch
    if not updates_per_epoch:
        raise UsageError(
            "the training split has %d samples and one update takes %d: lower the micro-batch, "
            "the gradient accumulation or the replicas" % (samples, program.global_batch)
        )
    if epochs:
        steps = math.ceil(epochs * updates_per_epoch / program.device_iterations)
    if not steps:
        raise UsageError("the run has no length: give its steps or epochs")
    return Schedule(steps, steps * program.device_iterations, updates_per_epoch)


@dataclass(frozen=True)
class Recipe:
    """Derived numbers, printed before training and saved as recipe.json.

    `steps` are host steps, calls of the device, each of the program's device iterations; so is `warmup_steps`.
    """

    samples: int
    global_batch: int
    samples_per_step: int
    updates_per_epoch: int
    steps: int
    updates: int
    epochs: float
    warmup_steps: int
    peak_learning_rate: float
    learning_rate_schedule: str
    parameters: int
    processes: int
    precision: str
    device: str

    def describe(self, program: Program) -> str:
        """The table that the user reads."""
        made_up = "micro-batch %d × accumulation %d × replicas %d" % (
            program.micro_batch_size,
            program.gradient_accumulation,
            program.replicas,
        )
        rows = [
            ("samples", f"{self.samples:,}"),
            ("global batch", f"{self.global_batch:,} = {made_up}"),
            ("per host step", "%s samples, %d updates" % (f"{self.samples_per_step:,}", program.device_iterations)),
            ("updates", "{}, {} per epoch".format(f"{self.updates:,}", f"{self.updates_per_epoch:,}")),
            ("host steps", "{}, {:.2f} epochs".format(f"{self.steps:,}", self.epochs)),
            (
                "learning rate",
                "peak %g, warm-up %d host steps, %s"
                % (self.peak_learning_rate, self.warmup_steps, self.learning_rate_schedule),
            ),
            ("parameters", f"{self.parameters:,}"),
            ("processes", str(self.processes)),
            ("precision", self.precision),
            ("device", self.device),
        ]
        return "\n".join("  %-14s %s" % row for row in rows)


def derive(
    program: Program,
    samples: int,
    model: nn.Module,
    processes: int,
    length: Schedule,
    *,
    warmup_steps: int,
    peak_learning_rate: float,
    learning_rate_schedule: str,
) -> Recipe:
    """Put the numbers of a run together.

    Args:
        program: how it runs.
        samples: in the training split.
        model: to train.
        processes: that train together.
        length: of the run.
        warmup_steps: host steps.
        peak_learning_rate: after warm-up.
        learning_rate_schedule: what it does then.
    """
    return Recipe(
        samples=samples,
        global_batch=program.global_batch,
        samples_per_step=program.samples_per_step,
        updates_per_epoch=length.updates_per_epoch,
        steps=length.steps,
        updates=length.updates,
        epochs=length.epochs,
        warmup_steps=warmup_steps,
        peak_learning_rate=peak_learning_rate,
        learning_rate_schedule=learning_rate_schedule,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        processes=processes,
        precision=describe_precision(program.precision),
        device=describe_device(),
    )


def describe_precision(precision: str) -> str:
    """What `precision`, compute.weights, means on the device at hand."""
    if not is_host:
        return f"{precision}: float{precision[:2]} arithmetic, float{precision[3:]} weights"
    exact = host.is_exact()
    if precision == "32.32":
        return "32.32: float32"
    if not exact:
        return f"{precision}: bfloat16 arithmetic, float32 master weights (POPTORCH_HOST_NUMERICS=exact for float16)"
    return {"16.16": "16.16: float16, stochastic rounding", "16.32": "16.32: float16 autocast, float32 weights"}[
        precision
    ]


def describe_device() -> str:
    """Which PopTorch runs the program and why; on a host, the processor and its threads or the GPU."""
    if not is_host:
        return reason
    device = host.device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    return f"{device.type} ({name}); {reason}"


def announce(options: CommonOptions, program: Program, recipe: Recipe, folder: Path, start: int = 0) -> None:
    """Print options and numbers and save them as config.yaml and recipe.json; the first process does.

    A run that has done `start` steps keeps its own where nothing is added to it: it has no step left, or this is a
    dry run.
    """
    if not is_main():
        return
    print(f"{show(options)}\n\n{recipe.describe(program)}\n", flush=True)
    if not start or (start < recipe.steps and not options.dry_run):
        write(options, folder / "config.yaml")
        write_atomically(folder / "recipe.json", json.dumps(asdict(recipe), indent=2) + "\n")


def wandb_arguments(options: RunOptions) -> Optional[Dict[str, Any]]:
    """Arguments of `wandb.init`, or None without --wandb."""
    if not options.wandb:
        return None
    return {"project": options.wandb_project_name, "name": options.wandb_run_name, "config": as_dict(options)}
