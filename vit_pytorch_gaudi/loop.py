"""Options → data → model → loop."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Optional

from building import build_model, require_weights
from dataset import ImageDataset, create_dataset
from dataset.loaders import loader
from device import Device, HpuMode, open_device
from evaluation import Evaluator
from options import TrainOptions
from recipe import announce, derive, wandb_arguments
from run import distributed
from run.checkpoints import Checkpoint, Checkpoints, find
from run.errors import Stopped
from run.folder import open_run
from run.history import History
from run.launcher import local_size, say
from run.progress import Progress, nothing_left
from run.sampling import TrainingStream
from run.signals import StopOnSignal
from speed import Speed
from training import Training


def run(options: TrainOptions, hpu: Optional[HpuMode] = None) -> None:
    """Open the device, an HPU in mode `hpu` if one may be used, and the run folder, and train in it.

    Raises:
        Stopped: a signal asked for it, and the run is saved.
        UserError: data, weights, options or numbers that it can't be done with.
    """
    device = open_device(options, hpu)
    folder, start = options.run_folder, None
    if options.resume_from:
        start = find(options.resume_from)
    is_own = start is not None and start.resolve().parent == (folder / "checkpoints").resolve()
    resume = options.resume or is_own
    opened = open_run(folder, resume=resume, overwrite=options.overwrite, flag="--name or --output-dir")
    with opened as run_folder, StopOnSignal() as stop:
        saved = Checkpoints(folder / "checkpoints").load(start or "latest") if start or run_folder.resuming else None
        _train(options, run_folder.path, device, saved, stop)


def _train(
    options: TrainOptions, folder: Path, device: Device, saved: Optional[Checkpoint], stop: StopOnSignal
) -> None:
    """Train as the options say, in a run folder, until the run is over or `stop` is asked for."""
    device.seed(options.seed)
    if saved is None:
        require_weights(options)
    bad_images = str(folder / "bad_images.txt")
    data = create_dataset(options, "train", bad_images)
    held_out = create_dataset(options, "validation", bad_images)
    model = build_model(options, data.classes, pretrained=saved is None)
    recipe = derive(options, len(data), model, distributed.world_size(), device)
    training = Training(options, recipe, model, data.classes, device, saved)
    announce(options, recipe, folder, training.start)
    if options.dry_run:
        return
    if training.start >= recipe.steps and not training.owes_evaluation:
        say(nothing_left(training.start, recipe.steps))
        return
    evaluator = Evaluator(options, training.supervised, training.forward, held_out, device, stop)
    history = History(folder, tensorboard=options.tensorboard, wandb=wandb_arguments(options))
    history.rewind(training.start)
    progress = Progress(
        recipe.steps,
        steps_per_epoch=recipe.updates_per_epoch,
        samples_per_step=recipe.batch.total,
        start=training.start,
        log_every=options.log_every,
    )
    speed = Speed(recipe.batch.total, training.start, options.throughput_warmup_steps)
    with history, progress, distributed.peers_needed():
        _loop(training, data, evaluator, history, progress, speed, stop)
        history.curves(folder / "curves.png")
        progress.note(f"{speed}; curves in {folder / 'curves.png'}")


def _loop(
    training: Training,
    data: ImageDataset,
    evaluator: Evaluator,
    history: History,
    progress: Progress,
    speed: Speed,
    stop: StopOnSignal,
) -> None:
    """Every optimizer step that is left: train, log, evaluate, save."""
    options, recipe, batch = training.options, training.recipe, training.recipe.batch
    processes = distributed.world_size()
    if training.owes_evaluation:
        with progress.paused():
            if not _assess(training.start, training, evaluator, history, progress, speed):
                raise _stopped(training.start)
    stream = TrainingStream(
        data,
        seed=options.seed,
        updates=recipe.steps,
        global_batch=batch.total,
        start_update=training.start,
        shard=(distributed.rank(), processes),
    )
    pinned = training.device.torch_device.type == "cuda"
    micro_batches = iter(loader(options, stream, batch.micro, pinned=pinned, processes=local_size()))
    for step in range(training.start + 1, recipe.steps + 1):
        totals = training.step(step, stream, islice(micro_batches, batch.accumulation))
        kept = training.is_evaluated(step) or training.is_saved(step)
        if progress.due(step) or kept:
            training.check(stream)
        if progress.due(step):
            loss, hits = distributed.all_reduce_sum(totals.tolist())
            values = {"loss": loss / batch.accumulation / processes, "accuracy": hits / batch.total}
            values["learning_rate"] = training.learning_rate
            throughput = progress.report(step, **values)
            speed.add(step, throughput)
            history.log(step, "train", throughput=throughput, **values)
        stopping = distributed.any_rank(stop.requested)
        with progress.paused():
            if not stopping and training.is_evaluated(step):
                stopping = not _assess(step, training, evaluator, history, progress, speed)
            elif stopping or kept:
                training.check(stream)
                training.save(step, None)
        if stopping:
            raise _stopped(step)
        data.check_bad_images()


def _assess(
    step: int, training: Training, evaluator: Evaluator, history: History, progress: Progress, speed: Speed
) -> bool:
    """Evaluate after `step` and save; False if the evaluation was given up because the run is to stop."""
    score = evaluator()
    if score:
        history.log(step, "validation", accuracy=score.top1, top5=score.top5, loss=score.loss, samples=score.samples)
        measured = speed.summary()
        if measured:
            history.log(step, "speed", **measured)
        shares = f"top-1 {score.top1:.4f}, top-5 {score.top5:.4f}"
        progress.note(f"Step {step}: validation {shares}, loss {score.loss:.4f} over {score.samples:,} images")
    training.save(step, score.top1 if score else None)
    return score is not None


def _stopped(step: int) -> Stopped:
    return Stopped(f"stopped after step {step}, which is saved; go on with --resume")
