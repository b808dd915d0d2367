"""Everything that a run needs to go on exactly where it stopped."""

from __future__ import annotations

from typing import Any, Dict, List

import torch
from torch import nn

from options import FinetuneOptions
from run.distributed import all_gather, is_main, rank
from run.errors import UsageError
from run.options import as_dict
from run.randomness import restore_rng_state, rng_state

# What a resumed run may be given anew: where things are, how long and how fast it trains, how it is laid out on IPUs,
# what it reports. With another value of any other option it would not be the same run any more.
MAY_CHANGE = {
    *("config", "output", "dry_run", "debug", "resume", "overwrite", "log_every", "tensorboard"),
    *("wandb", "wandb_project_name", "wandb_run_name", "pretrained_checkpoint", "new_head", "num_labels"),
    *("dataset_path", "download", "eval_resize", "dataloader_workers", "rebatched_worker_size", "bad_image_ratio"),
    *("training_steps", "epochs", "learning_rate", "lr_schedule", "warmup_steps"),
    *("checkpoint_save_steps", "keep_checkpoints", "eval_every", "evaluate"),
    *("layers_per_ipu", "ipus_per_replica", "matmul_proportion", "executable_cache_dir", "prefetch_depth"),
    *(
        "recompute_checkpoint_every_layer",
        "recompute_mid_layers",
        "enable_rts",
        "optimizer_state_offchip",
        "profile_dir",
    ),
}


def capture(
    options: FinetuneOptions, model: nn.Module, optimizer: torch.optim.Optimizer, executor: Any
) -> Dict[str, Any]:
    """State of the run after an update: weights, optimizer with loss scale, random generators of every process.

    Every process has to call it: sharded optimizer state and the generators are gathered.
    """
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "generators": all_gather({"device": list(executor.rng_state), "host": rng_state()}),
        "identity": {name: value for name, value in as_dict(options).items() if name not in MAY_CHANGE},
    }


def restore(
    state: Dict[str, Any], options: FinetuneOptions, model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Put weights and optimizer back; call it before the executor is made, which takes both over.

    Raises:
        UsageError: the run was started with options that make it another run.
    """
    now = as_dict(options)
    before = state["identity"]
    # A pretraining run has options that fine-tuning has not: to it they are none.
    changed = [f"{name} {now.get(name)} (was {was})" for name, was in before.items() if now.get(name) != was]
    if changed:
        raise UsageError(
            "the run can't be resumed with {}: give the old value, or another --output for a new run".format(
                ", ".join(changed)
            )
        )
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])


def restore_generators(state: Dict[str, Any], executor: Any) -> None:
    """Put this process's random generators back; the executor must be compiled.

    On another number of processes than before, generators of processes that were not there start from the first one's
    and dropout differs from the uninterrupted run's; that is said.
    """
    saved: List[Dict[str, Any]] = state["generators"]
    processes = len(all_gather(None))
    if processes != len(saved) and is_main():
        print(f"resumed on {processes} processes, saved on {len(saved)}: random numbers will differ", flush=True)
    mine = saved[rank() % len(saved)]
    executor.rng_state = mine["device"]
    restore_rng_state(mine["host"])
