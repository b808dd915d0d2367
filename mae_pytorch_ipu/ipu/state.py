"""Everything that a run needs to go on exactly where it stopped."""

from __future__ import annotations

from typing import Any, Collection, Dict, List, Sequence

import torch
from torch import nn

from run.distributed import all_gather, is_main, rank
from run.errors import UsageError
from run.options import CommonOptions, as_dict
from run.origin import describe_classes
from run.randomness import restore_rng_state, rng_state

# Of every app's options, what a resumed run may be given anew: where things are and what it reports.
ALWAYS_FREE = {
    *("config", "output", "dry_run", "debug", "resume", "overwrite", "log_every", "tensorboard"),
    *("wandb", "wandb_project_name", "wandb_run_name"),
}


def identity(options: CommonOptions, free: Collection[str], classes: Sequence[str] = ()) -> Dict[str, Any]:
    """The options that make a run what it is, with another value of which it would be another run.

    `free` names the others: where things are, how long and how fast it trains, how it is laid out on IPUs, what it
    reports; `ALWAYS_FREE` are free anyhow. The names of `classes`, if it learns any, belong to it, too: they make the
    labels.
    """
    kept = {name: value for name, value in as_dict(options).items() if name not in free and name not in ALWAYS_FREE}
    return {**kept, "classes": describe_classes(classes)} if classes else kept


def require_same(before: Dict[str, Any], now: Dict[str, Any]) -> None:
    """UsageError with what has changed in a run's identity."""
    # One script of an app may have options that another has not: to it they are none.
    changed = [f"{name} {now.get(name)} (was {was})" for name, was in before.items() if now.get(name) != was]
    if changed:
        raise UsageError(
            "the run can't be resumed with {}: give the old value, or another --output for a new run".format(
                ", ".join(changed)
            )
        )


def capture(model: nn.Module, optimizer: torch.optim.Optimizer, executor: Any) -> Dict[str, Any]:
    """State of the run after an update: weights, optimizer with loss scale, random generators of every process.

    Every process has to call it: sharded optimizer state and the generators are gathered.
    """
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "generators": all_gather({"device": list(executor.rng_state), "host": rng_state()}),
    }


def restore(state: Dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put weights and optimizer back; call it before the executor is made, which takes both over."""
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
