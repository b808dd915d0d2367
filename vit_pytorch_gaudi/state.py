"""Everything that a run needs to go on exactly where it stopped, the same on every device."""

from __future__ import annotations

from typing import Any, Dict, List

import torch

from device import Device
from models.vit import VisionTransformer
from options import LegacyOptions, TrainOptions
from recipe import Recipe
from run.distributed import all_gather, is_main, rank
from run.errors import UsageError
from run.options import as_dict
from run.origin import describe_classes
from run.randomness import restore_rng_state, rng_state

# What a resumed run may be given anew: where things are and what computes, how long it trains, what it reports.
# With another value of any other option it would not be the same run any more.
MAY_CHANGE = {
    *("config", "name", "output", "dry_run", "debug", "resume", "resume_from", "overwrite", "log_every"),
    *("tensorboard", "wandb", "wandb_project_name", "wandb_run_name", "throughput_warmup_steps"),
    *("pretrained_dir", "internal_perf_measure", "new_head", "num_classes"),
    *("data_path", "download", "dataloader_workers", "bad_image_ratio"),
    *("num_steps", "learning_rate", "decay_type", "warmup_steps"),
    *("eval_batch_size", "eval_every", "checkpoint_save_steps", "keep_checkpoints"),
    *("device", "mode", "use_hpu", "run_lazy_mode", *LegacyOptions.__annotations__),
    # How a step's images are made up; the number of them is what counts.
    *("train_batch_size", "gradient_accumulation_steps", "global_batch_size"),
}


def capture(
    same: Dict[str, Any],
    recipe: Recipe,
    model: VisionTransformer,
    optimizer: torch.optim.Optimizer,
    device: Device,
) -> Dict[str, Any]:
    """State of the run after an optimizer step: weights, optimizer, random generators of every process.

    `same` is its `identity`. Every process has to call it: the generators are gathered.
    """
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "generators": all_gather({"device": device.rng_state(), "host": rng_state()}),
        "identity": same,
        "samples": recipe.samples,
    }


def identity(options: TrainOptions, recipe: Recipe, classes: List[str]) -> Dict[str, Any]:
    """What makes a run this run."""
    kept = {name: value for name, value in as_dict(options).items() if name not in MAY_CHANGE}
    return {**kept, "global_batch": recipe.batch.total, "classes": describe_classes(classes)}


def restore(
    state: Dict[str, Any],
    now: Dict[str, Any],
    recipe: Recipe,
    model: VisionTransformer,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Put weights and optimizer back, on whatever device they are now, into a run whose `identity` is `now`.

    Unreadable images may have been removed meanwhile: another number of images is no error, but said, since their
    order is another from here on.

    Raises:
        UsageError: the run was started with options or classes that make it another run.
    """
    before = state["identity"].items()
    changed = [f"{name} {now.get(name)} (was {was})" for name, was in before if now.get(name) != was]
    if changed:
        raise UsageError(
            "the run can't be resumed with {}: give the old value, or another --name for a new run".format(
                ", ".join(changed)
            )
        )
    samples = state.get("samples", recipe.samples)
    if samples != recipe.samples and is_main():
        print(f"resumed with {recipe.samples:,} images, saved with {samples:,}: their order will differ", flush=True)
    model.load_state_dict(state["model"])
    _keep_settings(optimizer, state["optimizer"])


def _keep_settings(optimizer: torch.optim.Optimizer, state: Dict[str, Any]) -> None:
    """Load what the optimizer has gathered; how it computes (fused, foreach) stays as this device has it."""
    own = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    groups = [{**saved, **settings} for saved, settings in zip(state["param_groups"], own)]
    optimizer.load_state_dict({**state, "param_groups": groups})


def restore_generators(state: Dict[str, Any], device: Device) -> None:
    """Put this process's random generators back.

    On another number of processes than before, generators of processes that were not there start from others' and
    dropout differs from the uninterrupted run's; that is said.
    """
    saved: List[Dict[str, Any]] = state["generators"]
    processes = len(all_gather(None))
    if processes != len(saved) and is_main():
        print(f"resumed on {processes} processes, saved on {len(saved)}: random numbers will differ", flush=True)
    mine = saved[rank() % len(saved)]
    restore_rng_state(mine["host"])
    device.restore_rng_state(mine["device"])
