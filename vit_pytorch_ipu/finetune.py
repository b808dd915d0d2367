"""Fine-tune a ViT on CIFAR-10, ImageNet-1k or any class folders: python finetune.py --config b16_cifar10."""

from __future__ import annotations

from pathlib import Path
from typing import Optional, Sequence

from building import build_model
from common.imagenet import ImageNetLayoutError
from dataset import create_dataset
from dataset.loaders import data_spec, training_loader
from evaluation import Evaluator
from models.supervised import Supervised
from options import REFUSED_IN_FINETUNING, FinetuneOptions
from recipe import announce, derive, wandb_arguments
from run import distributed
from run.errors import Stopped, entry_point
from run.folder import open_run
from run.history import History
from run.options import parse
from run.progress import Progress
from run.randomness import seed_everything
from run.sampling import TrainingStream
from run.signals import StopOnSignal
from training import Training

CONFIGS = Path(__file__).resolve().parent / "configs.yml"


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Read the options and train in the run folder."""
    options = parse(
        FinetuneOptions,
        arguments,
        configs=CONFIGS,
        script="finetune.py",
        description=__doc__ or "",
        refused=REFUSED_IN_FINETUNING,
    )
    run = open_run(Path(options.output), resume=options.resume, overwrite=options.overwrite)
    with run as folder, StopOnSignal() as stop:
        finetune(options, folder.path, stop)


def finetune(options: FinetuneOptions, folder: Path, stop: StopOnSignal) -> None:
    """Options → data → model → loop."""
    seed_everything(options.random_seed)
    rank, processes = distributed.rank(), distributed.world_size()

    spec = data_spec(options, str(folder / "bad_images.txt"))
    data = create_dataset(spec, "train")
    held_out = create_dataset(spec, "validation") if options.evaluate else None

    network = build_model(options, data.classes)
    recipe = derive(options, len(data), network, processes)
    announce(options, recipe, folder)
    if options.dry_run:
        return

    model = Supervised(network)
    training = Training(options, recipe, model, data.classes, folder)
    if training.start >= recipe.steps:
        print(f"all {recipe.steps} steps are done: nothing is left to resume", flush=True)
        return
    evaluator = Evaluator(options, model, held_out) if held_out else None
    stream = TrainingStream(
        data,
        seed=options.random_seed,
        updates=recipe.updates,
        global_batch=recipe.global_batch,
        start_update=training.start * options.device_iterations,
        shard=(rank, processes),
    )
    history = History(folder, tensorboard=options.tensorboard, wandb=wandb_arguments(options))
    history.rewind(training.start)
    progress = Progress(
        recipe.steps,
        steps_per_epoch=recipe.steps / recipe.epochs,
        samples_per_step=recipe.samples_per_step,
        start=training.start,
        log_every=options.log_every,
    )
    batches = training_loader(options, training.ipu_options, stream, processes)
    with history, progress:
        for step, (images, labels) in enumerate(batches, training.start + 1):
            losses, correct = training.step(step, stream, images, labels)
            local = [float(losses.sum()), losses.numel(), float(correct.sum()), len(labels), float(stop.requested)]
            loss, micro_batches, hits, samples, stopping = distributed.all_reduce_sum(local)
            if progress.due(step):
                values = {"loss": loss / micro_batches, "accuracy": hits / samples}
                values["learning_rate"] = training.learning_rate
                history.log(step, "train", throughput=progress.report(step, **values), **values)

            last, score = step == recipe.steps, None
            with progress.paused():
                if evaluator and not stopping and (last or due(step, options.eval_every)):
                    score = evaluator()
                    history.log(
                        step, "validation", accuracy=score.top1, top5=score.top5, loss=score.loss, samples=score.samples
                    )
                    progress.note(f"Step {step}: validation accuracy {score.top1:.4f}, loss {score.loss:.4f}")
                if last or stopping or score or due(step, options.checkpoint_save_steps):
                    training.save(step, score.top1 if score else None)
            if stopping and not last:
                raise Stopped(f"stopped after step {step}, which is saved; go on with --resume")
            data.check_bad_images()
        history.curves(folder / "curves.png")
        if distributed.is_main():
            print(f"{progress.summary()}; curves in {folder / 'curves.png'}", flush=True)


def due(step: int, every: int) -> bool:
    """Whether something done every `every` steps (0: never) is due after `step`."""
    return every > 0 and step % every == 0


if __name__ == "__main__":
    entry_point(main, expected=(ImageNetLayoutError,))
