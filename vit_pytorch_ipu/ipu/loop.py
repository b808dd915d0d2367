"""The loop of a training run: every host step that is left, read top to bottom."""

from __future__ import annotations

from typing import Optional

from ipu.evaluation import EvaluatedData, Evaluator
from ipu.loaders import training_loader
from ipu.recipe import wandb_arguments
from ipu.training import Training
from run import distributed
from run.errors import Stopped
from run.history import History
from run.launcher import say
from run.options import RunOptions
from run.progress import Progress, nothing_left
from run.sampling import TrainingStream
from run.signals import StopOnSignal


def run(
    training: Training,
    data: EvaluatedData,
    evaluator: Optional[Evaluator],
    options: RunOptions,
    stop: StopOnSignal,
) -> None:
    """Train until the run is over or `stop` is asked for, with progress, history and curves in the run folder.

    Raises:
        Stopped: it was, and the run is saved.
        UserError: data or numbers that it can't be done with.
    """
    recipe, folder = training.recipe, training.saving.folder.parent
    if training.start >= recipe.steps and not (evaluator and training.owes_evaluation):
        say(nothing_left(training.start, recipe.steps))
        return
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


def compile_only(training: Training, data: EvaluatedData) -> None:
    """Compile the training for its first batch, which fills the cache of executables, and do no more."""
    stream, processes = _stream(training, data), distributed.world_size()
    for batch in training_loader(training.program, training.ipu_options, stream, processes):
        training.compile(training.device_inputs(training.start + 1, tuple(batch)))
        say("compiled; nothing was trained")
        return


def _stream(training: Training, data: EvaluatedData) -> TrainingStream:
    """This process's share of the updates that are left."""
    return TrainingStream(
        data,
        seed=training.program.seed,
        updates=training.recipe.updates,
        global_batch=training.recipe.global_batch,
        start_update=training.start * training.program.device_iterations,
        shard=(distributed.rank(), distributed.world_size()),
    )


def _loop(
    training: Training,
    data: EvaluatedData,
    evaluator: Optional[Evaluator],
    history: History,
    progress: Progress,
    stop: StopOnSignal,
) -> None:
    """Every host step that is left: train, log, evaluate, save."""
    recipe = training.recipe
    if evaluator and training.owes_evaluation:
        with progress.paused():
            if not _assess(training.start, training, evaluator, history, progress):
                raise _stopped(training.start)
    stream = _stream(training, data)
    batches = training_loader(training.program, training.ipu_options, stream, distributed.world_size())
    for step, batch in enumerate(batches, training.start + 1):
        losses, *hits = training.step(step, stream, tuple(batch))
        local = [float(losses.sum()), losses.numel(), len(batch[0]), float(stop.requested)]
        local += [float(counts.sum()) for counts in hits]
        loss, micro_batches, samples, stopping, *hit = distributed.all_reduce_sum(local)
        if progress.due(step):
            values = {"loss": loss / micro_batches, "learning_rate": training.last_learning_rate}
            if hit:
                values["accuracy"] = hit[0] / samples
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
        accuracy = "" if score.top1 is None else f"accuracy {score.top1:.4f}, "
        progress.note(f"Step {step}: validation {accuracy}loss {score.loss:.4f}")
    training.save(step, score.metric if score else None)
    return score is not None


def _stopped(step: int) -> Stopped:
    return Stopped(f"stopped after step {step}, which is saved; go on with --resume")
