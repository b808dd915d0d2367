"""The numbers of a run: what the options amount to for this data and this model."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, Optional

import torch
from torch import nn

from dataset.loaders import global_batch, samples_per_step
from options import FinetuneOptions
from poptorch_host.backend import is_host, reason
from run.distributed import is_main
from run.errors import UsageError
from run.options import as_dict, show, write


@dataclass(frozen=True)
class Recipe:
    """Derived numbers, printed before training and saved as recipe.json.

    `steps` are host steps, calls of the device, each of `device_iterations` updates.
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
    parameters: int
    processes: int
    precision: str
    device: str

    def describe(self, options: FinetuneOptions) -> str:
        """The table that the user reads."""
        made_up = "micro-batch %d × accumulation %d × replicas %d" % (
            options.micro_batch_size,
            options.gradient_accumulation,
            options.replication_factor,
        )
        rows = [
            ("samples", f"{self.samples:,}"),
            ("global batch", f"{self.global_batch:,} = {made_up}"),
            ("per host step", "%s samples, %d updates" % (f"{self.samples_per_step:,}", options.device_iterations)),
            ("updates", "{}, {} per epoch".format(f"{self.updates:,}", f"{self.updates_per_epoch:,}")),
            ("host steps", "{}, {:.2f} epochs".format(f"{self.steps:,}", self.epochs)),
            (
                "learning rate",
                "peak %g, warm-up %d host steps, %s"
                % (self.peak_learning_rate, self.warmup_steps, options.lr_schedule),
            ),
            ("parameters", f"{self.parameters:,}"),
            ("processes", str(self.processes)),
            ("precision", self.precision),
            ("device", self.device),
        ]
        return "\n".join("  %-14s %s" % row for row in rows)


def derive(options: FinetuneOptions, samples: int, model: nn.Module, processes: int) -> Recipe:
    """Work the numbers out.

    Args:
        options: of the script.
        samples: in the training split.
        model: to train.
        processes: that train together.

    Raises:
        UsageError: no length given, too few samples for one update, or replicas not divisible by the processes.
    """
    batch = global_batch(options)
    if options.replication_factor % processes:
        raise UsageError(
            "%d replicas can't be dealt out to %d processes: change --replication-factor or the number of processes"
            % (options.replication_factor, processes)
        )
    updates_per_epoch = samples // batch
    if not updates_per_epoch:
        raise UsageError(
            "the training split has %d samples and one update takes %d: lower --micro-batch-size, "
            "--gradient-accumulation or --replication-factor" % (samples, batch)
        )
    steps = options.training_steps
    if options.epochs:
        steps = math.ceil(options.epochs * updates_per_epoch / options.device_iterations)
    if not steps:
        raise UsageError("the run has no length: give --training-steps or --epochs")
    updates = steps * options.device_iterations
    return Recipe(
        samples=samples,
        global_batch=batch,
        samples_per_step=samples_per_step(options),
        updates_per_epoch=updates_per_epoch,
        steps=steps,
        updates=updates,
        epochs=updates / updates_per_epoch,
        warmup_steps=options.warmup_steps,
        peak_learning_rate=options.learning_rate,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        processes=processes,
        precision=describe_precision(options.precision),
        device=describe_device(),
    )


def describe_precision(precision: str) -> str:
    """What `precision`, compute.weights, means on the device at hand."""
    if not is_host:
        return f"{precision}: float{precision[:2]} arithmetic, float{precision[3:]} weights"
    from poptorch_host.precision import numerics

    if precision == "32.32":
        return "32.32: float32"
    if numerics() == "fast":
        return f"{precision}: bfloat16 arithmetic, float32 master weights (POPTORCH_HOST_NUMERICS=exact for float16)"
    return {"16.16": "16.16: float16, stochastic rounding", "16.32": "16.32: float16 inputs, float32 arithmetic"}[
        precision
    ]


def describe_device() -> str:
    """Which PopTorch runs the program and why; on a host, the processor and its threads or the GPU."""
    if not is_host:
        return reason
    from poptorch_host.distributed import device_for
    from poptorch_host.launcher import world

    device = device_for(world())
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    return f"{device.type} ({name}); {reason}"


def announce(options: FinetuneOptions, recipe: Recipe, folder: Path) -> None:
    """Print options and numbers and save them as config.yaml and recipe.json; the first process does."""
    if is_main():
        print(f"{show(options)}\n\n{recipe.describe(options)}\n", flush=True)
        write(options, folder / "config.yaml")
        (folder / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n")


def wandb_arguments(options: FinetuneOptions) -> Optional[Dict[str, Any]]:
    """Arguments of `wandb.init`, or None without --wandb."""
    if not options.wandb:
        return None
    return {"project": options.wandb_project_name, "name": options.wandb_run_name, "config": as_dict(options)}
