"""Train or evaluate a Vision Transformer on TFRecords: python train.py --device CPU --dataset FOLDER …"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Optional, Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported: errors only

from command_line import parse
from errors import UsageError, entry_point
from launcher import say
from options import TrainOptions, table


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Options → device → data → model → evaluation, or the training loop."""
    about = (__doc__ or "").split(":")[0]
    options = parse(TrainOptions, arguments, script="train.py", description=about)
    say(f"options\n{table(options)}")
    import device  # TensorFlow takes seconds to load: wrong flags are told before

    name, workers = device.set_up(options)
    if options.evaluate_checkpoint_path:
        evaluate(options, workers)
    else:
        train(options, name, workers)


def evaluate(options: TrainOptions, workers: Any) -> None:
    """Print the score of --evaluate_checkpoint_path on the validation shards."""
    import building
    import data
    from dataset import readable_errors
    from evaluation import Evaluator

    shards = data.open_data(options, workers, seed=0)
    model = building.make_model(options, shards.num_classes, workers, masks=None)
    say(f"weights: {building.load_any(model, Path(str(options.evaluate_checkpoint_path)))}")
    with readable_errors():
        score = Evaluator(model, workers)(shards.evaluation())
    assert score is not None
    say(f"loss {score.loss:.4f}, accuracy {score.top1:.4f}, top-5 {score.top5:.4f} ({score.samples:,} samples)")


def train(options: TrainOptions, device: str, workers: Any) -> None:
    """Train in the run folder, from the start or from a checkpoint."""
    import tensorflow as tf

    import building
    import callbacks
    import checkpoints
    import data
    import run_folder
    import starting
    import weights
    from dataset import readable_errors
    from loop import Loop
    from models.dropout import DropoutMasks
    from optimizers import make_optimizer, make_slots
    from recipe import Recipe
    from signals import StopOnSignal
    from training import Trainer

    resume = options.resume_from_checkpoint_path
    folder = run_folder.choose(options.output, resume, options.model, workers)
    earlier = starting.earlier_checkpoint(resume, folder)
    seed = starting.choose_seed(options, earlier, workers)
    tf.keras.utils.set_random_seed(seed % 2**32)
    shards = data.open_data(options, workers, seed, folder / "bad_images.txt")
    # Habana's runtime has no counted random numbers; Keras' dropout draws its own there.
    masks = DropoutMasks(seed) if device != "HPU" and options.sizes()["dropout"] else None
    model = building.make_model(options, shards.num_classes, workers, masks)
    recipe = Recipe(options, shards.train_samples, workers.size, model.count_params())
    config = building.describe_run(options, device, model, shards.class_names, seed, recipe.steps_per_epoch)
    say(f"run folder: {folder}, seed {seed}\n{recipe}")
    resuming = bool(resume) and Path(str(resume)).absolute() == folder.absolute()
    if options.overwrite and run_folder.holds(folder, Path(options.weights)):
        raise UsageError(
            f"--overwrite would remove {options.weights}, the weights to start from: give another --output"
        )
    with run_folder.open_run(folder, resuming=resuming, overwrite=options.overwrite, workers=workers):
        with workers.scope():
            optimizer, rate = make_optimizer(options.optimizer, options.weight_decay)
            make_slots(optimizer, model.trainable_variables)
        saved = checkpoints.Checkpoints(folder / "checkpoints", model, optimizer, keep=options.keep_checkpoints)
        starting.start(options, model, saved, workers, earlier, config, recipe.updates_per_epoch)
        if workers.is_main:
            resumed = resuming and earlier is not None
            starting.record(folder, config, recipe.updates, resumed=resumed, dry_run=options.dry_run, saved=saved)
        if options.dry_run:
            return
        starting.start_dump(options)
        trainer = Trainer(
            model, optimizer, rate, workers, clip_norm=options.clip, masks=masks, jit_compile=options.jit_compile
        )
        listening = callbacks.of_run(options, folder, recipe, int(saved.update), config) if workers.is_main else []
        listeners = tf.keras.callbacks.CallbackList(listening, model=model)
        with StopOnSignal() as stop, readable_errors():
            Loop(options, recipe, trainer, shards, saved, listeners, stop).run()
        if workers.is_main:
            weights.save_npz(model, folder / "weights.npz")
            say(f"done: {folder} holds weights.npz, checkpoints, history.jsonl and curves.png")


if __name__ == "__main__":
    entry_point(main)
