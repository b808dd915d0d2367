"""Checkpoints of a run: TensorFlow's, the newest few and the best, read back to the newest that is intact."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import List, Optional, Union

import tensorflow as tf

from errors import UserError
from launcher import say

_PREFIX = "ckpt"


class Checkpoints:
    """State of a run in `folder`: model, optimizer, update, best accuracy; randomness follows from seed and update.

    Args:
        folder: made at the first save.
        model: with its variables made.
        optimizer: with its variables made, see `optimizers.make_slots`.
        keep: newest checkpoints kept.
    """

    def __init__(
        self, folder: Path, model: tf.keras.Model, optimizer: tf.keras.optimizers.Optimizer, *, keep: int
    ) -> None:
        self.folder, self._keep = folder, keep
        self.update, self.owes_evaluation = (tf.Variable(0, dtype=tf.int64, trainable=False) for _ in range(2))
        self.best = tf.Variable(-1.0, dtype=tf.float64, trainable=False)
        self._checkpoint = tf.train.Checkpoint(
            model=model, optimizer=optimizer, update=self.update, owes_evaluation=self.owes_evaluation, best=self.best
        )

    def save(self, update: int, *, owes_evaluation: bool = False) -> None:
        """Write a checkpoint after `update` updates and prune old ones; to be called by the first process only."""
        self._write(self.folder, self._keep, update, owes_evaluation)

    def save_best(self, update: int, accuracy: float) -> bool:
        """Write it as the best one too if it is; before `save`, which then tells a resumed run about it."""
        better = accuracy > float(self.best)
        if better:
            self.best.assign(accuracy)
            self._write(self.folder / "best", 1, update, False)
        return better

    def _write(self, folder: Path, keep: int, update: int, owes_evaluation: bool) -> None:
        self.update.assign(update)
        self.owes_evaluation.assign(int(owes_evaluation))
        for left_over in folder.glob(f"{_PREFIX}-*_temp"):  # of a run that was killed while it wrote
            shutil.rmtree(left_over)
        manager = tf.train.CheckpointManager(self._checkpoint, str(folder), keep, checkpoint_name=_PREFIX)
        manager.save(checkpoint_number=update)
        kept = {Path(path).name for path in manager.checkpoints}
        for prefix in listed(folder):  # damaged ones, or of a later point that the run went back from
            if prefix.name not in kept:
                remove(prefix)

    def restore(self, prefix: Path) -> None:
        """Read a checkpoint, which `find` returned.

        Raises:
            UserError: it belongs to another model or optimizer.
        """
        try:
            self._checkpoint.restore(str(prefix)).assert_existing_objects_matched()
        except (AssertionError, ValueError) as error:
            raise UserError(f"{prefix} holds another model or optimizer: give the options of its run") from error


def listed(folder: Path) -> List[Path]:
    """Prefixes of the checkpoints in a folder, the newest first; whatever TensorFlow's own list says."""
    found = [(re.fullmatch(rf"({_PREFIX}-(\d+))\.index", path.name), path) for path in folder.glob("*.index")]
    numbered = sorted(((int(match[2]), path.with_suffix("")) for match, path in found if match), reverse=True)
    return [prefix for _, prefix in numbered]


def remove(prefix: Path) -> None:
    """Remove a checkpoint's files."""
    for path in prefix.parent.glob(prefix.name + ".*"):
        path.unlink()


def find(path: Union[str, Path], which: str = "latest") -> Optional[Path]:
    """Prefix of an intact checkpoint; None if `path` is a folder without any.

    Args:
        path: run folder, its checkpoints folder, or a checkpoint's prefix or index file.
        which: "latest" or "best" of a run; a run without a best one gives the latest.

    Raises:
        UserError: the named one, or all, are damaged; or there is nothing at `path`.
    """
    path = Path(path)
    named = path.with_suffix("") if path.suffix == ".index" else path
    if named.with_name(named.name + ".index").is_file():
        _verify(named)
        return named
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    if not folder.is_dir():
        raise UserError(f"there is no checkpoint {path}: check the path")
    candidates = listed(folder / "best") if which == "best" else []
    candidates += listed(folder)
    for prefix in candidates:
        try:
            _verify(prefix)
            return prefix
        except UserError as error:
            say(f"skipping checkpoint {prefix.name}: {error}")
    if candidates:
        raise UserError(f"no checkpoint in {folder} is intact: restore one or start again with --overwrite")
    return None


def _verify(prefix: Path) -> None:
    """Read all of it, which compares every tensor with its checksum."""
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        raise UserError(f"it is damaged ({str(error).splitlines()[0]})") from error


def load_model(prefix: Path, model: tf.keras.Model) -> None:
    """Read the model's weights alone.

    Raises:
        UserError: it holds another model.
    """
    try:
        status = tf.train.Checkpoint(model=model).restore(str(prefix))
        status.assert_existing_objects_matched().expect_partial()
    except (AssertionError, ValueError) as error:
        raise UserError(f"{prefix} holds another model: give the sizes of its run") from error
