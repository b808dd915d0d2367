"""Options → data → model → loop of fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import List, Tuple

import torch
from torch import Tensor

from building import build_classifier
from dataset import classification_data, preparation_of
from dataset.mixing import Mixing, draw_rows, needs_partners, partners
from ipu.evaluation import Evaluator
from ipu.loop import compile_only, run
from ipu.program import Program
from ipu.recipe import Recipe, announce
from ipu.state import identity
from ipu.training import Training
from ipu_options import create_program, evaluation_program, training_options
from lengths import recipe_of, saving_of
from models import VisionTransformer
from models.supervised import Supervised
from optimization import finetuning_optimizer, learning_rate
from options import MAY_CHANGE, FinetuneOptions
from run import distributed
from run.errors import UsageError
from run.folder import RunFolder
from run.randomness import seed_everything
from run.signals import StopOnSignal
from weights import save_weights


def finetune(options: FinetuneOptions, folder: RunFolder, stop: StopOnSignal) -> None:
    """Fine-tune as the options say, in a run folder, until the run is over or `stop` is asked for.

    Raises:
        Stopped: it was, and the run is saved.
        UserError: data, weights, options or numbers that it can't be done with.
    """
    seed_everything(options.seed)
    bad_images = str(folder.path / "bad_images.txt")
    data = classification_data(options, "train", bad_images)
    held_out = classification_data(options, "validation", bad_images) if options.evaluate else None
    network = build_classifier(options, data.classes, folder.path if folder.resuming else None)

    program = create_program(options)
    recipe = recipe_of(options, program, len(data), network)
    model = Supervised(network, options.mean, options.std, options.smoothing)
    training = Finetuning(options, program, recipe, model, data.classes, folder.path)
    announce(options, program, recipe, folder.path, training.start)
    if options.dry_run:
        return
    if options.compile_only:
        compile_only(training, data)
        return
    evaluator = Evaluator(evaluation_program(options), model, held_out, stop) if held_out else None
    run(training, data, evaluator, options, stop)


class Finetuning(Training):
    """A classifier in training: its schedule, its mixing and its weights, with the names of published ones.

    Raises:
        UsageError: mixing pairs the samples of an update, and they are an odd number.
    """

    def __init__(
        self,
        options: FinetuneOptions,
        program: Program,
        recipe: Recipe,
        model: Supervised,
        classes: List[str],
        folder: Path,
    ) -> None:
        assert isinstance(model.model, VisionTransformer)
        self.options, self.network, self.classes = options, model.model, classes
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
                "mixing pairs samples, and a process's share of an update is %d of them: make it an even number" % share
            )
        optimizer, saving = finetuning_optimizer(self.network, options), saving_of(options, recipe, folder)
        same = identity(options, MAY_CHANGE, classes)
        super().__init__(program, training_options(options), recipe, model, optimizer, saving, same)

    def learning_rate(self, step: int) -> float:
        """Learning rate of host step `step` (from 0), of the head."""
        epoch = step * self.program.device_iterations / self.recipe.updates_per_epoch
        return learning_rate(self.options, self.recipe.peak_learning_rate, epoch)

    def write_weights(self, folder: Path) -> None:
        """This app's layout, with class names and how images are prepared."""
        preparation = preparation_of(self.options, self.options.eval_resize)
        save_weights(self.network, folder, class_names=self.classes, preparation=preparation)

    def device_inputs(self, step: int, batch: Tuple[Tensor, ...]) -> Tuple[Tensor, ...]:
        """Images and labels; with mixing how each sample is mixed, and where the device can't find them the partners.

        The rows are those of this process, update after update, and the device cuts all of them as it cuts the images.
        """
        if not self.mixing.is_on:
            return batch
        images, labels = batch
        program, size = self.program, self.network.config.image_size
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
