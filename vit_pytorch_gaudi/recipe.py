"""The numbers of a run: what the options amount to for this data, this model and this many cards."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, Optional

from torch import nn

from device import Device
from options import TrainingOptions, TrainOptions
from run.distributed import is_main
from run.errors import UsageError
from run.files import write_atomically
from run.options import as_dict, show, write


@dataclass(frozen=True)
class Batch:
    """Images of one optimizer step: micro-batch × accumulation on each of `cards`."""

    micro: int
    accumulation: int
    cards: int

    @property
    def card(self) -> int:
        """Images of one card."""
        return self.micro * self.accumulation

    @property
    def total(self) -> int:
        """Images over all cards."""
        return self.card * self.cards

    def __str__(self) -> str:
        made_up = f"micro-batch {self.micro} × accumulation {self.accumulation} × cards {self.cards}"
        return f"{self.total:,} = {made_up}"


@dataclass(frozen=True)
class Recipe:
    """Derived numbers, printed before training and saved as recipe.json."""

    samples: int
    batch: Batch
    updates_per_epoch: int
    steps: int
    epochs: float
    warmup_steps: int
    peak_learning_rate: float
    parameters: int
    precision: str
    device: str

    def describe(self, options: TrainOptions) -> str:
        """The table that the user reads."""
        fixed = "; fixed by --global-batch-size" if options.global_batch_size else "; grows with the cards"
        warmup = f"peak {self.peak_learning_rate:g}, warm-up {self.warmup_steps} steps, {options.decay_type}"
        rows = [
            ("samples", f"{self.samples:,}"),
            ("global batch", f"{self.batch}{fixed}"),
            ("optimizer steps", f"{self.steps:,}, {self.updates_per_epoch:,} per epoch, {self.epochs:.2f} epochs"),
            ("learning rate", warmup),
            ("parameters", f"{self.parameters:,}"),
            ("precision", self.precision),
            ("device", self.device),
        ]
        return "\n".join("  %-16s %s" % row for row in rows)


def batch_of(options: TrainingOptions, cards: int) -> Batch:
    """How an optimizer step's images are made up.

    Raises:
        UsageError: a fixed global batch that the cards can't share.
    """
    micro = options.train_batch_size // options.gradient_accumulation_steps
    if options.global_batch_size is None:
        return Batch(micro, options.gradient_accumulation_steps, cards)
    accumulation, rest = divmod(options.global_batch_size, micro * cards)
    if rest:
        raise UsageError(
            f"--global-batch-size {options.global_batch_size} is no multiple of {cards} cards × micro-batch {micro} "
            "(train_batch_size / gradient_accumulation_steps): change one of them"
        )
    return Batch(micro, accumulation, cards)


def derive(options: TrainOptions, samples: int, model: nn.Module, cards: int, device: Device) -> Recipe:
    """Work the numbers out.

    Args:
        options: of the run.
        samples: in the training split.
        model: to train.
        cards: processes that train together.
        device: of this process.

    Raises:
        UsageError: fewer samples than one optimizer step takes, or a batch that the cards can't share.
    """
    batch = batch_of(options, cards)
    updates_per_epoch = samples // batch.total
    if not updates_per_epoch:
        raise UsageError(
            f"the training split has {samples} samples and one optimizer step takes {batch.total}: "
            "lower --train-batch-size or --global-batch-size"
        )
    return Recipe(
        samples=samples,
        batch=batch,
        updates_per_epoch=updates_per_epoch,
        steps=options.num_steps,
        epochs=options.num_steps / updates_per_epoch,
        warmup_steps=options.warmup_steps,
        peak_learning_rate=options.learning_rate,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        precision="bfloat16 autocast, float32 weights" if options.autocast else "float32",
        device=device.describe(),
    )


def announce(options: TrainOptions, recipe: Recipe, folder: Path, start: int) -> None:
    """Print options and numbers and save them as config.yaml and recipe.json; the first process does.

    A run that has done `start` steps keeps its own where nothing is added to it: it has no step left, or this is a
    dry run.
    """
    if not is_main():
        return
    print(f"{show(options)}\n\n{recipe.describe(options)}\n", flush=True)
    if not start or (start < recipe.steps and not options.dry_run):
        write(options, folder / "config.yaml")
        write_atomically(folder / "recipe.json", json.dumps(asdict(recipe), indent=2) + "\n")


def wandb_arguments(options: TrainOptions) -> Optional[Dict[str, Any]]:
    """Arguments of `wandb.init`, or None without --wandb."""
    if not options.wandb:
        return None
    name = options.wandb_run_name or options.name
    return {"project": options.wandb_project_name, "name": name, "config": as_dict(options)}
