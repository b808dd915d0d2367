"""How long a run is, in host steps, from options that count epochs."""

from __future__ import annotations

from torch import nn

from ipu.program import Program
from ipu.recipe import Recipe, derive, schedule
from optimization import peak_learning_rate
from options import TrainingOptions


def recipe_of(options: TrainingOptions, program: Program, samples: int, model: nn.Module, processes: int) -> Recipe:
    """The numbers of a run over `samples` samples; UsageError for a run that is none."""
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


def epochs_in_steps(epochs: int, recipe: Recipe) -> int:
    """Host steps of `epochs` epochs, 0 for none."""
    return round(epochs * recipe.steps / recipe.epochs)
