"""Options → data → model → loop: what fine-tuning and pretraining share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import List, Tuple

from torch import Tensor, nn

from building import build_model
from dataset import create_dataset
from dataset.from_options import data_spec
from dataset.mixup import mixup_coefficients
from ipu.evaluation import Evaluator
from ipu.loop import run
from ipu.program import Program
from ipu.recipe import Recipe, announce, derive, schedule
from ipu.state import identity
from ipu.training import Saving, Training
from ipu_options import create_program, training_options
from models.supervised import Supervised
from optimization import create_optimizer, learning_rate
from options import FinetuneOptions, PretrainOptions
from run import distributed
from run.checkpoints import Checkpoints
from run.randomness import seed_everything
from run.signals import StopOnSignal
from weights import save_weights

# What a resumed run may be given anew beside what every app allows.
MAY_CHANGE = {
    *("pretrained_checkpoint", "new_head", "num_labels", "dataset_path", "download", "eval_resize"),
    *("dataloader_workers", "rebatched_worker_size", "bad_image_ratio", "training_steps", "epochs", "learning_rate"),
    *("lr_schedule", "warmup_steps", "checkpoint_save_steps", "keep_checkpoints", "eval_every", "evaluate"),
    *("layers_per_ipu", "ipus_per_replica", "matmul_proportion", "executable_cache_dir", "prefetch_depth"),
    *("recompute_checkpoint_every_layer", "recompute_mid_layers", "enable_rts", "optimizer_state_offchip"),
    "profile_dir",
}


def train(options: FinetuneOptions, folder: Path, stop: StopOnSignal) -> None:
    """Train as the options say, in a run folder, until the run is over or `stop` is asked for.

    Raises:
        Stopped: it was, and the run is saved.
        UserError: data, weights, options or numbers that it can't be done with.
    """
    seed_everything(options.random_seed)
    spec = data_spec(options, str(folder / "bad_images.txt"))
    data = create_dataset(spec, "train")
    held_out = create_dataset(spec, "validation") if options.evaluate else None

    resuming = options.resume and bool(Checkpoints(folder / "checkpoints").steps())
    network = build_model(options, data.classes, pretrained=not resuming)
    program = create_program(options)
    recipe = describe_run(options, program, len(data), network, distributed.world_size())
    model = Supervised(network, options.loss if isinstance(options, PretrainOptions) else "CELoss")
    training = ViTTraining(options, program, recipe, model, data.classes, folder)
    announce(options, program, recipe, folder, training.start)
    if options.dry_run:
        return
    evaluator = Evaluator(replace(program, device_iterations=1), model, held_out, stop) if held_out else None
    run(training, data, evaluator, options, stop)


def describe_run(options: FinetuneOptions, program: Program, samples: int, model: nn.Module, processes: int) -> Recipe:
    """The numbers of a run over `samples` samples."""
    return derive(
        program,
        samples,
        model,
        processes,
        schedule(program, samples, processes, epochs=options.epochs, steps=options.training_steps),
        warmup_steps=options.warmup_steps,
        peak_learning_rate=options.learning_rate,
        learning_rate_schedule=options.lr_schedule,
    )


class ViTTraining(Training):
    """A ViT in training: its schedule, mixup and weights in Hugging Face's layout."""

    def __init__(
        self,
        options: FinetuneOptions,
        program: Program,
        recipe: Recipe,
        model: Supervised,
        classes: List[str],
        folder: Path,
    ) -> None:
        saving = Saving(
            folder / "checkpoints",
            keep=options.keep_checkpoints,
            save_every=options.checkpoint_save_steps,
            evaluate_every=options.eval_every,
            resume=options.resume,
        )
        self.options, self.network, self.classes = options, model.model, classes
        optimizer, same = create_optimizer(model, options), identity(options, MAY_CHANGE, classes)
        super().__init__(program, training_options(options), recipe, model, optimizer, saving, same)

    def learning_rate(self, step: int) -> float:
        """Learning rate of host step `step` (from 0)."""
        return learning_rate(self.options, step, self.recipe.steps)

    def write_weights(self, folder: Path) -> None:
        """Hugging Face's layout, with class names and how evaluation prepares images."""
        save_weights(self.network, folder, class_names=self.classes, eval_resize=self.options.eval_resize)

    def device_inputs(self, step: int, batch: Tuple[Tensor, ...]) -> Tuple[Tensor, ...]:
        """Images, labels and with mixup a coefficient per micro-batch, which the device cuts as it cuts the images."""
        options = self.options
        if not (isinstance(options, PretrainOptions) and options.mixup):
            return batch
        updates, micro_batches = options.device_iterations, options.gradient_accumulation * options.replication_factor
        shard = distributed.rank(), distributed.world_size()
        first = (step - 1) * updates
        return (*batch, mixup_coefficients(options.random_seed, first, updates, micro_batches, options.alpha, shard))
