"""Where a run begins: its seed, its first weights, or the checkpoint that it goes on from."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any, Dict, Optional

import tensorflow as tf

import building
import checkpoints
import run_folder
from distributed import Workers
from launcher import say
from options import TrainOptions


def earlier_checkpoint(resume: Optional[str], folder: Path) -> Optional[Path]:
    """Prefix of the checkpoint to go on from; None for a fresh start, also where the run folder has none yet.

    Raises:
        UserError: there is nothing at the path, or what is there is damaged.
    """
    if not resume or is_weight_file(resume):
        return None
    path = Path(resume)
    is_own = path.absolute() == folder.absolute()
    found = None if is_own and not path.exists() else checkpoints.find(path)
    if found is None:
        say(f"nothing to resume in {path}: starting from the beginning")
    return found


def is_weight_file(resume: str) -> bool:
    """Whether --resume_from_checkpoint_path names weights alone."""
    return Path(resume).is_file() and Path(resume).suffix != ".index"


def choose_seed(options: TrainOptions, earlier: Optional[Path], workers: Workers) -> int:
    """The seed that was given, else that of the run to go on with, else a new one, the same on all processes."""
    if options.seed is not None:
        return options.seed
    if earlier is not None:
        return int(building.run_config(earlier)["options"]["seed"])
    return workers.agree(secrets.randbits(31))


def start(
    options: TrainOptions,
    model: tf.keras.Model,
    saved: checkpoints.Checkpoints,
    workers: Workers,
    earlier: Optional[Path],
    config: Dict[str, Any],
    updates_per_epoch: int,
) -> None:
    """Fill model and state: from the checkpoint `earlier`, a weight file to resume from, or --weights."""
    resume = options.resume_from_checkpoint_path
    if earlier is not None:
        building.check_same_run(building.run_config(earlier), config)
        saved.restore(earlier)
        say(f"going on from {earlier}, update {int(saved.update)}")
    elif resume and is_weight_file(resume):
        say(f"weights: {building.load_any(model, Path(resume))}")
        saved.update.assign(options.resume_from_epoch * updates_per_epoch)
    else:
        building.load_start(options, model, workers)
    workers.same_start(model.variables)


def record(
    folder: Path,
    config: Dict[str, Any],
    updates: int,
    *,
    resumed: bool,
    dry_run: bool,
    saved: checkpoints.Checkpoints,
) -> None:
    """Write what the run is to its folder; one that is resumed keeps its record where nothing is added to it.

    That is so in a dry run, and where it has done the `updates` that are asked for, or more, which is said.
    """
    done = int(saved.update)
    if not resumed or (done < updates and not dry_run):
        run_folder.write_config(folder, config)
    elif done > updates:
        say(f"{done} updates are done and {updates} are asked for: nothing is left to resume, ask for more to train on")
    elif done == updates:
        say(f"all {done} updates are done: nothing is left to resume")


def start_dump(options: TrainOptions) -> None:
    """Dump tensors from here on as --dump_config asks, readable by TensorBoard's debugger page."""
    dump = options.dump()
    if dump:
        tf.debugging.experimental.enable_dump_debug_info(dump.pop("dump_root"), **dump)
