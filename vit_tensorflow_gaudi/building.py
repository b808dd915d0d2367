"""From options to a model with its weights."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, Optional

import tensorflow as tf

import checkpoints
import download
import run_folder
import weights
from distributed import Workers
from errors import UsageError, UserError
from launcher import say
from models import ViTConfig, create_model
from models.dropout import DropoutMasks
from models.vit import configure
from options import RECIPE, TrainOptions


def make_model(options: TrainOptions, num_classes: int, workers: Workers, masks: Optional[DropoutMasks]) -> Any:
    """The model of the options, from random weights.

    Raises:
        UsageError: the sizes do not fit together.
    """
    try:
        config = configure(options.model, num_classes=num_classes, **options.sizes())
    except ValueError as error:
        raise UsageError(str(error)) from error
    with workers.scope():
        return create_model(options.model, config=config, masks=masks)


def load_start(options: TrainOptions, model: tf.keras.Model, workers: Workers) -> None:
    """Load --weights, with a new head unless --pretrained_top."""
    if options.weights == "none":
        say("weights: random")
        return
    path = Path(options.weights)
    if options.weights in download.NAMES and not path.exists():
        with workers.main_first():
            path = download.locate(options.weights, options.model, options.weights_path)
    say(f"weights: {load_any(model, path, new_head=not options.pretrained_top)}")


def load_any(model: tf.keras.Model, path: Path, *, new_head: bool = False) -> str:
    """Load weights alone from a weight file, or from a run's best checkpoint or a named one; says what was loaded."""
    if path.is_file() and path.suffix != ".index":
        return str(weights.load_file(model, path, new_head=new_head))
    prefix = checkpoints.find(path, "best")
    if prefix is None:
        raise UserError(f"{path} holds no checkpoint: give a run folder, a checkpoint or a weight file")
    heads, ours = _heads(prefix), model.vit_config.heads
    if heads not in (None, ours):  # no shape tells, and the numbers would be wrong
        raise UserError(f"{prefix} is of {heads} heads, the model of {ours}: give the sizes of its run")
    if not new_head:
        checkpoints.load_model(prefix, model)
        return f"checkpoint {prefix}"
    config = run_config(prefix)
    donor = create_model(config=ViTConfig(**config["vit"]))
    checkpoints.load_model(prefix, donor)
    arrays = {name: variable.numpy() for name, variable in weights.named_variables(donor).items()}
    return str(weights.assign(model, arrays, str(prefix), new_head=True))


def run_config(path: Path) -> Dict[str, Any]:
    """config.json of the run that a run folder, its checkpoints folder or a checkpoint in it belongs to."""
    folder = _run_of(path)
    if folder is None:
        raise UserError(f"{path} belongs to no run folder with a config.json: give one")
    return run_folder.read_config(folder)


def _run_of(path: Path) -> Optional[Path]:
    return next((folder for folder in (path, *path.absolute().parents[:3]) if run_folder.is_run(folder)), None)


def _heads(prefix: Path) -> Optional[int]:
    """Attention heads of the checkpoint's model; None where it lies in no run folder that says so."""
    folder = _run_of(prefix)
    return run_folder.read_config(folder)["vit"].get("heads") if folder else None


def describe_run(
    options: TrainOptions, device: str, model: tf.keras.Model, class_names: Any, seed: int, steps: int
) -> Dict[str, Any]:
    """What config.json holds: the options with what was chosen for those that were not given."""
    resolved = {**asdict(options), "seed": seed, "steps_per_epoch": steps, "num_classes": model.vit_config.num_classes}
    resolved.update(clip_norm=options.clip, device=device)
    return {"options": resolved, "vit": asdict(model.vit_config), "class_names": list(class_names)}


def check_same_run(before: Dict[str, Any], now: Dict[str, Any]) -> None:
    """UsageError if a run can't be the one that is to be resumed."""
    old, new = before["options"], now["options"]
    changed = [f"{name} {new[name]} (was {old.get(name)})" for name in (*RECIPE, "seed") if new[name] != old.get(name)]
    if before["class_names"] != now["class_names"]:
        changed.append(f"classes {_classes(now)} (was {_classes(before)})")
    if changed:
        raise UsageError(f"the run can't go on with {', '.join(changed)}: leave that as it was")


def _classes(config: Dict[str, Any]) -> str:
    names = config["class_names"]
    return f"{len(names)} from {names[0]} to {names[-1]}" if names else "without names"
