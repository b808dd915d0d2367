"""How long a run is, in host steps, from options that count epochs."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ipu.program import Program
from ipu.recipe import Recipe, derive, schedule
from ipu.training import Saving
from optimization import LINEAR_END, REFERENCE_BATCH
from options import TrainOptions
from run import distributed


def recipe_of(options: TrainOptions, program: Program, samples: int, model: nn.Module) -> Recipe:
    """The numbers of a run over `samples` samples, on all processes; UsageError for a run that is none."""
    processes = distributed.world_size()
    length = schedule(program, samples, processes, epochs=options.epochs)
    if options.training_steps:
        length = schedule(program, samples, processes, steps=min(options.training_steps, length.steps))
    scale = program.global_batch / REFERENCE_BATCH
    after = {
        "cosine": f"cosine to {options.min_lr * scale:g}" + (", as if without warm-up" if options.lr_legacy else ""),
        "linear": f"linear to {options.base_lr * scale * LINEAR_END:g}",
        "step": f"times {options.decay_rate:g} every {options.decay_epochs:g} epochs",
    }[options.lr_scheduler]
    return derive(
        program,
        samples,
        model,
        processes,
        length,
        warmup_steps=round(options.warmup_epochs * length.updates_per_epoch / program.device_iterations),
        peak_learning_rate=options.base_lr * scale,
        learning_rate_schedule=f"{after} at epoch {options.epochs}",
    )


def saving_of(options: TrainOptions, recipe: Recipe, folder: Path) -> Saving:
    """Where and when a run in `folder` is saved and evaluated."""
    return Saving(
        folder / "checkpoints",
        keep=options.keep_checkpoints,
        save_every=epochs_in_steps(options.save_freq, recipe),
        evaluate_every=epochs_in_steps(options.eval_freq, recipe),
        resume=options.resume,
    )


def epochs_in_steps(epochs: float, recipe: Recipe) -> int:
    """Host steps of `epochs` epochs: at least one, and none for 0."""
    return max(1, round(epochs * recipe.steps / recipe.epochs)) if epochs else 0
