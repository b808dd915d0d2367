"""The numbers of a run, from options and data: printed before it, so that a surprise costs nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple

from errors import UsageError
from options import TrainOptions


@dataclass(frozen=True)
class Recipe:
    """How micro-steps make up updates and epochs. An epoch's last update may have fewer micro-steps than the others.

    Args:
        options: of the run.
        samples: for training.
        workers: processes.
        parameters: of the model.

    Raises:
        UsageError: --profile begins after the run's end.
    """

    options: TrainOptions
    samples: int
    workers: int
    parameters: int

    def __post_init__(self) -> None:
        window = self.options.profile_window()
        if window and window[0] > self.options.epochs * self.steps_per_epoch:
            steps = self.options.epochs * self.steps_per_epoch
            raise UsageError(f"--profile {self.options.profile} begins after the run's last micro-step, {steps}")

    @property
    def steps_per_epoch(self) -> int:
        """Micro-steps of an epoch."""
        return self.options.steps_per_epoch or max(1, self.samples // self.options.batch_size)

    @property
    def updates_per_epoch(self) -> int:
        """Updates of an epoch."""
        return -(-self.steps_per_epoch // self.options.grad_accum_steps)

    @property
    def updates(self) -> int:
        """Updates of the run."""
        return self.updates_per_epoch * self.options.epochs

    def place(self, update: int) -> Tuple[int, int, int]:
        """Epoch, first micro-step of the run, and number of micro-steps of an update, the first two from 0."""
        epoch, index = divmod(update, self.updates_per_epoch)
        begin = index * self.options.grad_accum_steps
        count = min(self.options.grad_accum_steps, self.steps_per_epoch - begin)
        return epoch, epoch * self.steps_per_epoch + begin, count

    def passes(self, every: int, update: int) -> bool:
        """Whether this update takes the run past a multiple of `every` micro-steps; never for 0."""
        _, first, count = self.place(update)
        return bool(every) and (first + count) // every > first // every

    def is_reported(self, done: int) -> bool:
        """Whether --log_every asks for a report after `done` updates."""
        return done % self.options.log_every == 0 or done == self.updates

    def __str__(self) -> str:
        options, k = self.options, self.options.grad_accum_steps
        rate = f"{options.lr_sched}, {options.initial_lr:g}"
        if options.lr_sched == "WarmupCosine":
            rate += f" after {options.warmup_steps / k:,.0f} updates of warm-up ({options.warmup_steps:,} micro-steps)"
            if options.warmup_steps >= self.steps_per_epoch * options.epochs:
                rate += ", which this run never reaches"
        share = options.batch_size // self.workers
        rows = {
            "images per update": f"{options.batch_size * k:,} = {share} × {self.workers} workers × {k} micro-steps",
            "epoch": f"{self.steps_per_epoch:,} micro-steps, {self.updates_per_epoch:,} updates, "
            f"{self.steps_per_epoch * options.batch_size:,} of {self.samples:,} images",
            "run": f"{options.epochs} epochs, {self.updates:,} updates",
            "learning rate": rate,
            "gradient": f"clipped to norm {options.clip:g}" if options.clip else "not clipped",
            "augmentation": options.augmentation if options.augment else "none",
            "parameters": f"{self.parameters:,}",
        }
        return "\n".join(f"  {name.ljust(17)}  {value}" for name, value in rows.items())
