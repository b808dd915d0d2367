"""Checkpoints of a run: TensorFlow's, the newest few and the best, read back to the newest that is intact.

`ckpt-N.sha256` is written last, in the format of sha256sum. TensorFlow's own checksums don't cover every byte.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import List, Optional, Set, Union

import tensorflow as tf

from errors import UserError
from files import digest, sync, write_atomically
from launcher import say

_PREFIX, _DIGESTS = "ckpt", ".sha256"


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
        folder.mkdir(parents=True, exist_ok=True)
        for left_over in folder.glob(f"{_PREFIX}-*_temp"):  # of a run that was killed while it wrote
            shutil.rmtree(left_over)
        prefix = folder / f"{_PREFIX}-{update}"
        prefix.with_name(prefix.name + _DIGESTS).unlink(missing_ok=True)
        self._checkpoint.write(str(prefix))
        _record(prefix)
        there = listed(folder)
        first = there.index(prefix)  # before it are those of a later point that the run went back from
        _remove_others(folder, {path.name for path in there[first : first + keep]})

    def restore(self, prefix: Path) -> None:
        """Read a checkpoint, which `find` returned.

        Raises:
            UserError: it belongs to another model or optimizer.
        """
        try:
            self._checkpoint.read(str(prefix)).assert_existing_objects_matched()
        except (AssertionError, ValueError) as error:
            raise UserError(f"{prefix} holds another model or optimizer: give the options of its run") from error


def listed(folder: Path) -> List[Path]:
    """Prefixes of the checkpoints in a folder, the newest first; those that a kill left unfinished are none."""
    found = [(re.fullmatch(rf"{_PREFIX}-(\d+)", path.stem), path) for path in folder.glob(f"{_PREFIX}-*{_DIGESTS}")]
    numbered = sorted(((int(match[1]), path.with_suffix("")) for match, path in found if match), reverse=True)
    return [prefix for _, prefix in numbered]


def _remove_others(folder: Path, kept: Set[str]) -> None:
    """Remove the files of all checkpoints but those named, the one that makes a checkpoint first."""
    files = [path for name in (_PREFIX, f".{_PREFIX}") for path in folder.glob(f"{name}-*") if path.is_file()]
    for path in sorted(files, key=lambda path: path.suffix != _DIGESTS):
        if path.name.partition(".")[0] not in kept:
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


def _record(prefix: Path) -> None:
    """Flush a checkpoint's files to the disk and write down their digests, which make it complete."""
    for path in _files(prefix):
        sync(path)
    write_atomically(prefix.with_name(prefix.name + _DIGESTS), _digests(prefix))


def _files(prefix: Path) -> List[Path]:
    return sorted(path for path in prefix.parent.glob(prefix.name + ".*") if path.suffix != _DIGESTS)


def _digests(prefix: Path) -> str:
    return "".join(f"{digest(path)}  {path.name}\n" for path in _files(prefix))


def _verify(prefix: Path) -> None:
    """Compare every file with its digest."""
    recorded = prefix.with_name(prefix.name + _DIGESTS)
    try:
        intact = recorded.read_bytes() == _digests(prefix).encode()
    except OSError as error:
        raise UserError(f"it is not complete ({error.strerror}: {error.filename})") from error
    if not intact:
        raise UserError(f"it is damaged (its files are not those of {recorded.name})")


def load_model(prefix: Path, model: tf.keras.Model) -> None:
    """Read the model's weights alone.

    Raises:
        UserError: it holds another model.
    """
    try:
        status = tf.train.Checkpoint(model=model).read(str(prefix))
        status.assert_existing_objects_matched().expect_partial()
    except (AssertionError, ValueError) as error:
        raise UserError(f"{prefix} holds another model: give the sizes of its run") from error
