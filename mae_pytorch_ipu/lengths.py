"""How long a run is, in host steps, from options that count epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Union

from torch import nn

from ipu.program import Program
from ipu.recipe import Recipe, derive, schedule
from ipu.training import Saving
from optimization import peak_learning_rate
from options import FinetuneOptions, LinprobeOptions, PretrainOptions
from run import distributed

TrainingScript = Union[PretrainOptions, FinetuneOptions, LinprobeOptions]


def recipe_of(options: TrainingScript, program: Program, samples: int, model: nn.Module) -> Recipe:
    """The numbers of a run over `samples` samples, on all processes; UsageError for a run that is none."""
    processes = distributed.world_size()
    length = schedule(program, samples, processes, epochs=options.epochs)
    warmup = round(options.warmup_epochs * length.updates_per_epoch / program.device_iterations)
    return derive(
        program,
        samples,
        model,
        processes,
        length,
        warmup_steps=warmup,
        peak_learning_rate=peak_learning_rate(options, program.global_batch),
        learning_rate_schedule=f"cosine to {options.min_lr:g}",
    )


def saving_of(options: TrainingScript, recipe: Recipe, folder: Path) -> Saving:
    """Where and when a run in `folder` is saved and evaluated."""
    return Saving(
        folder / "checkpoints",
        keep=options.keep_checkpoints,
        save_every=epochs_in_steps(options.saveckp_freq, recipe),
        evaluate_every=epochs_in_steps(options.eval_freq, recipe),
        resume=options.resume,
    )


def epochs_in_steps(epochs: int, recipe: Recipe) -> int:
    """Host steps of `epochs` epochs: at least one, and none for 0."""
    return max(1, round(epochs * recipe.steps / recipe.epochs)) if epochs else 0
