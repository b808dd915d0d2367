"""Options → data → model → loop of pretraining."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import List

from torch import Tensor

from building import build_autoencoder
from dataset import masked_data
from ipu.evaluation import Evaluator
from ipu.loop import compile_only, run
from ipu.program import Program
from ipu.recipe import Recipe, announce
from ipu.state import identity
from ipu.training import Saving, Training
from ipu_options import create_program, training_options
from lengths import epochs_in_steps, recipe_of
from models import MaskedAutoencoder
from models.reconstruction import Reconstruction
from optimization import PRETRAINING_BETAS, adamw, learning_rate, pretraining_groups
from options import PretrainOptions
from poptorch_host.backend import is_host
from preparation import Preparation
from run import distributed
from run.randomness import seed_everything
from run.signals import StopOnSignal
from weights import save_weights

# What a resumed run may be given anew beside what every app allows.
MAY_CHANGE = {
    *("data_path", "num_workers", "async_type", "rebatched_worker_size", "bad_image_ratio", "epochs", "lr", "blr"),
    *("min_lr", "warmup_epochs", "saveckp_freq", "keep_checkpoints", "eval_freq", "evaluate", "pipeline", "ipus"),
    *("memory_proportion", "executable_cache_dir", "compile_only", "rts", "mask_on_host", "remap", "remap_so"),
}


def pretrain(options: PretrainOptions, folder: Path, stop: StopOnSignal) -> None:
    """Pretrain as the options say, in a run folder, until the run is over or `stop` is asked for.

    Raises:
        Stopped: it was, and the run is saved.
        UserError: data, options or numbers that it can't be done with.
    """
    seed_everything(options.seed)
    network = build_autoencoder(options)
    bad_images = str(folder / "bad_images.txt")
    on_host = not is_host if options.mask_on_host is None else options.mask_on_host
    matrices = (network.config.patches, network.config.visible) if on_host else None
    data = masked_data(options, "train", bad_images, matrices)
    held_out = masked_data(options, "validation", bad_images) if options.evaluate else None

    program = create_program(options)
    recipe = recipe_of(options, program, len(data), network, distributed.world_size())
    model = Reconstruction(network, options.mean, options.std)
    training = Pretraining(options, program, recipe, model, folder)
    announce(options, program, recipe, folder)
    if options.dry_run:
        return
    if options.compile_only:
        compile_only(training, data)
        return
    evaluator = None
    if held_out:
        once = replace(program, device_iterations=1)
        evaluator = Evaluator(once, model, held_out, stop, counted=count_reconstructed, takes_labels=True)
    run(training, data, evaluator, options, stop)


def count_reconstructed(losses: Tensor, keys: Tensor) -> List[float]:
    """[samples, summed loss] of a batch; samples whose key is -1 are padding."""
    kept = losses[keys >= 0]
    return [float(len(kept)), float(kept.double().sum())]


class Pretraining(Training):
    """A masked autoencoder in training: its schedule and its weights, with the names of published ones."""

    def __init__(
        self, options: PretrainOptions, program: Program, recipe: Recipe, model: Reconstruction, folder: Path
    ) -> None:
        saving = Saving(
            folder / "checkpoints",
            keep=options.keep_checkpoints,
            save_every=epochs_in_steps(options.saveckp_freq, recipe),
            evaluate_every=epochs_in_steps(options.eval_freq, recipe),
            resume=options.resume,
        )
        self.options: PretrainOptions = options
        self.network: MaskedAutoencoder = model.model
        groups = pretraining_groups(model, options.weight_decay)
        optimizer = adamw(groups, options, PRETRAINING_BETAS, half=options.half)
        same = identity(options, MAY_CHANGE)
        super().__init__(program, training_options(options), recipe, model, optimizer, saving, same)

    def learning_rate(self, step: int) -> float:
        """Learning rate of host step `step` (from 0)."""
        epoch = step * self.program.device_iterations / self.recipe.updates_per_epoch
        return learning_rate(self.options, self.recipe.peak_learning_rate, epoch)

    def write_weights(self, folder: Path) -> None:
        """This app's layout, in which all of it and of what it was trained with is said."""
        options = self.options
        preparation = Preparation(options.input_size, "crop", tuple(options.mean), tuple(options.std))
        save_weights(self.network, folder, preparation=preparation)
