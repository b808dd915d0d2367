"""Options → data → model → loop: what fine-tuning and pretraining share."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from building import build_model
from dataset import ImageDataset, create_dataset
from dataset.loaders import data_spec, training_loader
from evaluation import Evaluator
from models.supervised import Supervised
from options import FinetuneOptions, PretrainOptions
from recipe import announce, derive, wandb_arguments
from run import distributed
from run.errors import Stopped
from run.history import History
from run.launcher import say
from run.progress import Progress
from run.randomness import seed_everything
from run.sampling import TrainingStream
from run.signals import StopOnSignal
from training import Training


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

    resuming = options.resume and any((folder / "checkpoints").glob("*step-*"))
    network = build_model(options, data.classes, pretrained=not resuming)
    recipe = derive(options, len(data), network, distributed.world_size())
    model = Supervised(network, options.loss if isinstance(options, PretrainOptions) else "CELoss")
    training = Training(options, recipe, model, data.classes, folder)
    announce(options, recipe, folder)
    if options.dry_run:
        return
    if training.start >= recipe.steps and not (held_out and training.owes_evaluation):
        say(f"all {recipe.steps} steps are done: nothing is left to resume")
        return
    evaluator = Evaluator(options, model, held_out, stop) if held_out else None
    history = History(folder, tensorboard=options.tensorboard, wandb=wandb_arguments(options))
    history.rewind(training.start)
    progress = Progress(
        recipe.steps,
        steps_per_epoch=recipe.steps / recipe.epochs,
        samples_per_step=recipe.samples_per_step,
        start=training.start,
        log_every=options.log_every,
    )
    with history, progress, distributed.peers_needed():
        _loop(training, data, evaluator, history, progress, stop)
        history.curves(folder / "curves.png")
        if distributed.is_main():
            print(f"{progress.summary()}; curves in {folder / 'curves.png'}", flush=True)


def _loop(
    training: Training,
    data: ImageDataset,
    evaluator: Optional[Evaluator],
    history: History,
    progress: Progress,
    stop: StopOnSignal,
) -> None:
    """Every host step that is left: train, log, evaluate, save."""
    options, recipe, processes = training.options, training.recipe, distributed.world_size()
    if evaluator and training.owes_evaluation:
        with progress.paused():
            if not _assess(training.start, training, evaluator, history, progress):
                raise _stopped(training.start)
    stream = TrainingStream(
        data,
        seed=options.random_seed,
        updates=recipe.updates,
        global_batch=recipe.global_batch,
        start_update=training.start * options.device_iterations,
        shard=(distributed.rank(), processes),
    )
    batches = training_loader(options, training.ipu_options, stream, processes)
    for step, (images, labels) in enumerate(batches, training.start + 1):
        losses, correct = training.step(step, stream, images, labels)
        local = [float(losses.sum()), losses.numel(), float(correct.sum()), len(labels), float(stop.requested)]
        loss, micro_batches, hits, samples, stopping = distributed.all_reduce_sum(local)
        if progress.due(step):
            values = {"loss": loss / micro_batches, "accuracy": hits / samples}
            values["learning_rate"] = training.learning_rate
            throughput = progress.report(step, **values)
            history.log(step, "train", throughput=throughput, loss_scale=training.loss_scale, **values)

        with progress.paused():
            if evaluator and not stopping and training.is_evaluated(step):
                stopping = not _assess(step, training, evaluator, history, progress)
            elif stopping or training.is_saved(step):
                training.save(step, None)
        if stopping and (evaluator or step < recipe.steps):
            raise _stopped(step)
        data.check_bad_images()


def _assess(step: int, training: Training, evaluator: Evaluator, history: History, progress: Progress) -> bool:
    """Evaluate after `step` and save; False if the evaluation was given up because the run is to stop."""
    score = evaluator()
    if score:
        history.log(step, "validation", accuracy=score.top1, top5=score.top5, loss=score.loss, samples=score.samples)
        progress.note(f"Step {step}: validation accuracy {score.top1:.4f}, loss {score.loss:.4f}")
    training.save(step, score.top1 if score else None)
    return score is not None


def _stopped(step: int) -> Stopped:
    return Stopped(f"stopped after step {step}, which is saved; go on with --resume")
