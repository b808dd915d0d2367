"""Options → data → model → loop of linear probing (He et al. 2021, arXiv:2111.06377, appendix A)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import List, cast

import torch
from torch import Tensor, nn

from building import build_classifier
from dataset import classification_data, preparation_of
from ipu.evaluation import Evaluator, count
from ipu.loop import compile_only, run
from ipu.poptorch_options import inference_options, replicas_of_inference
from ipu.program import Program
from ipu.recipe import Recipe, announce
from ipu.state import identity
from ipu.training import Training
from ipu_options import create_program, evaluation_program, training_options
from lars import LARS
from lengths import recipe_of, saving_of
from models import VisionTransformer
from models.supervised import Supervised
from optimization import learning_rate
from options import MAY_CHANGE, LinprobeOptions
from poptorch_host.backend import poptorch
from probe import HeadTrainer, without_head
from run.errors import UsageError
from run.folder import RunFolder
from run.randomness import seed_everything
from run.signals import StopOnSignal
from weights import save_weights


def probe(options: LinprobeOptions, folder: RunFolder, stop: StopOnSignal) -> None:
    """Train a linear classifier as the options say, in a run folder, until it is over or `stop` is asked for.

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
    training = Probing(options, program, recipe, network, data.classes, folder.path)
    announce(options, program, recipe, folder.path, training.start)
    if options.dry_run:
        return
    if options.compile_only:
        compile_only(training, data)
        return
    evaluator = None
    if held_out:
        evaluator = Evaluator(evaluation_program(options), training.features, held_out, stop, training.count)
    run(training, data, evaluator, options, stop)


class Probing(Training):
    """A linear classifier in training on an encoder that stays as it is.

    Raises:
        UsageError: a process has fewer micro-batches in a step than the pipeline needs.
    """

    def __init__(
        self,
        options: LinprobeOptions,
        program: Program,
        recipe: Recipe,
        network: VisionTransformer,
        classes: List[str],
        folder: Path,
    ) -> None:
        self.options, self.network, self.classes = options, network, classes
        self.head = cast(nn.Sequential, network.head)
        optimizer = LARS(self.head.parameters(), lr=0.0, weight_decay=options.weight_decay)
        same, saving = identity(options, MAY_CHANGE, classes), saving_of(options, recipe, folder)
        super().__init__(program, training_options(options), recipe, network, optimizer, saving, same)

    def new_executor(self) -> HeadTrainer:
        """The device computes the encoder's features; what is trained on them is not on the device."""
        program, processes = self.program, self.recipe.processes
        iterations = program.samples_per_step // (processes * program.micro_batch_size * replicas_of_inference())
        if iterations < program.ipus:
            raise UsageError(
                "a step has %d micro-batches on each process and a pipeline of %d IPUs needs as many: raise "
                "--gradient_accumulation_count" % (iterations, program.ipus)
            )
        self.network.eval()
        self.features = Supervised(without_head(self.network), self.options.mean, self.options.std).eval()
        sharded = replace(program, sharded=True)
        ipu_options = inference_options(sharded, device_iterations=iterations, processes=processes)
        features = poptorch.inferenceModel(self.features, ipu_options)
        return HeadTrainer(features, self.head, self.optimizer, program.device_iterations)

    def learning_rate(self, step: int) -> float:
        """Learning rate of host step `step` (from 0)."""
        epoch = step * self.program.device_iterations / self.recipe.updates_per_epoch
        return learning_rate(self.options, self.recipe.peak_learning_rate, epoch)

    def write_weights(self, folder: Path) -> None:
        """This app's layout, encoder and all, with class names and how images are prepared."""
        preparation = preparation_of(self.options, self.options.eval_resize)
        save_weights(self.network, folder, class_names=self.classes, preparation=preparation)

    @torch.no_grad()
    def count(self, features: Tensor, labels: Tensor) -> List[float]:
        """What `ipu.evaluation.count` gives for the head's logits of features (B, D)."""
        return count(self.head.eval()(features.float()), labels)
