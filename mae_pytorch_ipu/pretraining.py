"""Options → data → model → loop of pretraining."""

from __future__ import annotations

from pathlib import Path
from typing import List

from torch import Tensor

from building import build_autoencoder
from dataset import masked_data, preparation_of
from ipu.evaluation import Evaluator
from ipu.loop import compile_only, run
from ipu.program import Program
from ipu.recipe import Recipe, announce
from ipu.state import identity
from ipu.training import Training
from ipu_options import create_program, evaluation_program, training_options
from lengths import recipe_of, saving_of
from models import MaskedAutoencoder
from models.reconstruction import Reconstruction
from optimization import learning_rate, pretraining_optimizer
from options import MAY_CHANGE, PretrainOptions
from poptorch_host.backend import is_host
from run.randomness import seed_everything
from run.signals import StopOnSignal
from weights import save_weights


def pretrain(options: PretrainOptions, folder: Path, stop: StopOnSignal) -> None:
    """Pretrain as the options say, in a run folder, until the run is over or `stop` is asked for.

    Raises:
        Stopped: it was, and the run is saved.
        UserError: data, options or numbers that it can't be done with.
    """
    seed_everything(options.seed)
    program = create_program(options)
    network = build_autoencoder(options)
    bad_images = str(folder / "bad_images.txt")
    on_host = not is_host if options.mask_on_host is None else options.mask_on_host
    matrices = (network.config.patches, network.config.visible) if on_host else None
    data = masked_data(options, "train", bad_images, matrices)
    held_out = masked_data(options, "validation", bad_images, matrices) if options.evaluate else None

    recipe = recipe_of(options, program, len(data), network)
    model = Reconstruction(network, options.mean, options.std)
    training = Pretraining(options, program, recipe, model, folder)
    announce(options, program, recipe, folder, training.start)
    if options.dry_run:
        return
    if options.compile_only:
        compile_only(training, data)
        return
    evaluator = None
    if held_out:
        counted = count_reconstructed
        evaluator = Evaluator(evaluation_program(options), model, held_out, stop, counted, takes_labels=True)
    run(training, data, evaluator, options, stop)


def count_reconstructed(losses: Tensor, masks: Tensor) -> List[float]:
    """[samples, summed loss] of a batch; samples whose key, or matrix, is -1 are padding."""
    kept = losses[masks.reshape(len(masks), -1).amin(dim=1) >= 0]
    return [float(len(kept)), float(kept.double().sum())]


class Pretraining(Training):
    """A masked autoencoder in training: its schedule and its weights, with the names of published ones."""

    def __init__(
        self, options: PretrainOptions, program: Program, recipe: Recipe, model: Reconstruction, folder: Path
    ) -> None:
        self.options: PretrainOptions = options
        self.network: MaskedAutoencoder = model.model
        optimizer, saving = pretraining_optimizer(model, options), saving_of(options, recipe, folder)
        same = identity(options, MAY_CHANGE)
        super().__init__(program, training_options(options), recipe, model, optimizer, saving, same)

    def learning_rate(self, step: int) -> float:
        """Learning rate of host step `step` (from 0)."""
        epoch = step * self.program.device_iterations / self.recipe.updates_per_epoch
        return learning_rate(self.options, self.recipe.peak_learning_rate, epoch)

    def write_weights(self, folder: Path) -> None:
        """This app's layout, in which all of it and of what it was trained with is said."""
        save_weights(self.network, folder, preparation=preparation_of(self.options, "crop"))
