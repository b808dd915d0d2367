"""Options → data → model → loop of training."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import torch
from torch import Tensor

from building import AVERAGED, build_model, build_network, prepared
from dataset import ImageDataset, create_dataset
from dataset.augmentation import IMAGENET_MEAN, IMAGENET_STD
from dataset.mixing import Mixing, draw_rows, needs_partners, partners
from ema import Ema, EmaEvaluator
from ipu.evaluation import Evaluator
from ipu.loop import compile_only, run
from ipu.program import Program
from ipu.recipe import Recipe, announce
from ipu.state import identity
from ipu.training import Training
from ipu_options import create_program, evaluation_program, training_options
from lengths import recipe_of, saving_of
from models import SwinTransformer
from models.supervised import Supervised
from optimization import create_optimizer, learning_rate
from options import MAY_CHANGE, TrainOptions
from run import distributed
from run.errors import UsageError, UserError
from run.folder import RunFolder
from run.randomness import seed_everything
from run.signals import StopOnSignal
from weights import save_weights


def train(options: TrainOptions, folder: RunFolder, stop: StopOnSignal) -> None:
    """Train as the options say, in a run folder, until the run is over or `stop` is asked for.

    Raises:
        Stopped: it was, and the run is saved.
        UserError: data, weights, options or numbers that it can't be done with.
    """
    seed_everything(options.seed)
    bad_images = str(folder.path / "bad_images.txt")
    data = create_dataset(options, "train", bad_images)
    held_out = create_dataset(options, "validation", bad_images) if options.evaluate else None
    if held_out:
        _require_same(data.classes, held_out.classes, options.data_path)
    network = build_model(options, data.classes, pretrained=not folder.resuming)

    program = create_program(options)
    recipe = recipe_of(options, program, len(data), network)
    ema = (
        Ema(network, prepared(build_network(options, data.classes), options), options.ema_decay)
        if options.ema_decay
        else None
    )
    training = SwinTraining(options, program, recipe, network, ema, data.classes, folder.path)
    announce(options, program, recipe, folder.path, training.start)
    if options.dry_run:
        return
    if options.compile_only:
        compile_only(training, data)
        return
    run(training, data, _evaluator(options, training, held_out, stop), options, stop)


def _require_same(train: List[str], validation: List[str], path: str) -> None:
    """UserError unless both splits have the same classes in the same order; archives may say otherwise."""
    for number, (ours, theirs) in enumerate(zip_longest(train, validation, fillvalue="none")):
        if ours != theirs:
            raise UserError(
                f"class {number} in {path} is {ours} in the train split and {theirs} in the validation split: give "
                "both the same classes, or --evaluate false"
            )


def _evaluator(
    options: TrainOptions, training: SwinTraining, data: Optional[ImageDataset], stop: StopOnSignal
) -> Optional[Evaluator]:
    if data is None:
        return None
    program = evaluation_program(options)
    if training.ema and options.ema_evaluate:
        return EmaEvaluator(training.ema, program, supervised(training.ema.network), data, stop)
    return Evaluator(program, training.model, data, stop)


def supervised(network: torch.nn.Module, smoothing: float = 0.0) -> Supervised:
    """The network with normalisation by ImageNet's mean and deviation, mixing and loss."""
    return Supervised(network, IMAGENET_MEAN, IMAGENET_STD, smoothing)


class SwinTraining(Training):
    """A Swin in training: its schedule, mixing, average and weights, with the names of Microsoft's checkpoints.

    Raises:
        UsageError: mixing pairs the samples of an update, and a process has an odd number of them.
    """

    def __init__(
        self,
        options: TrainOptions,
        program: Program,
        recipe: Recipe,
        network: SwinTransformer,
        ema: Optional[Ema],
        classes: List[str],
        folder: Path,
    ) -> None:
        self.options, self.network, self.ema, self.classes = options, network, ema, classes
        self.mixing = Mixing(
            mixup_alpha=options.mixup,
            cutmix_alpha=options.cutmix,
            cutmix_minmax=options.box_sides,
            probability=options.mixup_prob,
            switch_probability=options.mixup_switch_prob,
            mode=options.mixup_mode,
        )
        share = program.global_batch // recipe.processes
        if self.mixing.is_on and share % 2:
            raise UsageError(
                "mixing pairs samples, and a process's share of an update is %d of them: make it an even number, or "
                "give --mixup 0 --cutmix 0" % share
            )
        model, saving = supervised(network, options.label_smoothing), saving_of(options, recipe, folder)
        optimizer, same = create_optimizer(network, options), identity(options, MAY_CHANGE, classes)
        super().__init__(program, training_options(options), recipe, model, optimizer, saving, same)

    def learning_rate(self, step: int) -> float:
        """Learning rate of host step `step` (from 0)."""
        epoch = step * self.program.device_iterations / self.recipe.updates_per_epoch
        return learning_rate(self.options, self.options.epochs, self.program.global_batch, epoch)

    def write_weights(self, folder: Path) -> None:
        """Microsoft's names, with class names and how images are prepared; the average in a folder inside."""
        described: Dict[str, Any] = {"class_names": self.classes, "eval_resize": self.options.eval_resize}
        save_weights(self.network, folder, **described)
        if self.ema:
            save_weights(self.ema.averaged(), folder / AVERAGED, **described)

    def after_step(self, step: int) -> None:
        """Take the new weights into the average."""
        if self.ema and step % self.options.ema_every == 0:
            self.ema.update(self.network, self.options.ema_every * self.program.device_iterations)

    def more_state(self) -> Dict[str, Any]:
        """The average."""
        return {"ema": self.ema.state()} if self.ema else {}

    def restore_more(self, state: Dict[str, Any]) -> None:
        """Put the average back."""
        if self.ema:
            self.ema.restore(state["ema"])

    def device_inputs(self, step: int, batch: Tuple[Tensor, ...]) -> Tuple[Tensor, ...]:
        """Images and labels; with mixing how each sample is mixed, and where the device can't find them the partners.

        The rows are those of this process, update after update, and the device cuts all of them as it cuts the images.
        """
        if not self.mixing.is_on:
            return batch
        images, labels = batch
        program, size = self.program, self.options.image_size
        micro_batches = program.gradient_accumulation * program.replicas
        first, shard = (step - 1) * program.device_iterations, (distributed.rank(), distributed.world_size())
        mix = torch.cat(
            [
                draw_rows(self.mixing, program.seed, update, micro_batches, program.micro_batch_size, size, shard)
                for update in range(first, first + program.device_iterations)
            ]
        )
        if needs_partners(program.micro_batch_size):
            return images, labels, mix, partners(images), partners(labels)
        return images, labels, mix
