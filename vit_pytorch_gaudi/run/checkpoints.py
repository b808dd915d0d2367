"""Checkpoints that survive a kill at any moment, notice every damaged byte and hold no pickle."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple, Union

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from . import tree
from .errors import UserError
from .files import sync, sync_tree, write_atomically
from .launcher import say
from .manifest import MANIFEST, Manifest, read_manifest, verify, write_manifest

__all__ = ["Checkpoint", "Checkpoints", "find", "verify"]

STATE, TENSORS = "state.json", "state.safetensors"
_STEP = re.compile(r"step[-_](\d+)")
_FOLDER = re.compile(r"(?:\.replaced-)?step-(\d+)")
_LEFT_OVER = re.compile(r"\.(saving|removing)-step-\d+|\.(latest|best)\.json\.\d+\.tmp")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read: `state` as it was saved with tensors on the CPU, `metric` None where none was given."""

    step: int
    state: Dict[Any, Any]
    folder: Path
    metric: Optional[float]


class Checkpoints:
    """The checkpoints of a run in `folder`, one folder `step-N` each.

    `latest.json` and `best.json` name the newest and the best one for people and other programs. Reading does not
    depend on them: it goes by the manifests, so that a kill between two writes can't make them contradict.

    Args:
        folder: made at the first save.
        keep: newest checkpoints that are kept, besides the best; 0 keeps all.
        tell: takes sentences about checkpoints that are skipped; prints on the first process by default.
    """

    def __init__(self, folder: Path, *, keep: int = 3, tell: Callable[[str], None] = say) -> None:
        if keep < 0:
            raise ValueError("keep is a number of checkpoints, not %d" % keep)
        self.folder = Path(folder)
        self.keep = keep
        self._tell = tell
        self._clean = False

    def save(
        self,
        step: int,
        state: Mapping[str, Any],
        *,
        writers: Mapping[str, Callable[[Path], None]] = {},
        metric: Optional[float] = None,
    ) -> Path:
        """Write a checkpoint and return its folder; to be called by the first process only.

        Everything is written to a temporary folder, flushed, listed in a manifest, read back and then renamed. Only
        after that are older checkpoints removed. A checkpoint of the same step is replaced.

        Args:
            step: number in the folder's name, not negative.
            state: nesting of dict (keys str or int), list, tuple, str, int, float, bool, None and Tensor.
            writers: name in the folder → function that writes a file or folder to the path it is given.
            metric: how good this state is, higher is better.

        Raises:
            TypeError: the state holds something else.
            OSError: the disk is full or the folder can't be written; what was there before is untouched.
            UserError: what was written can't be read back; the same holds.
        """
        if step < 0 or any(Path(name).name != name or name in (STATE, TENSORS, MANIFEST) for name in writers):
            raise ValueError("step %d, extra files %s" % (step, ", ".join(writers)))
        self._prepare()
        serial = 1 + max((manifest.serial for manifest in self._manifests()[0].values()), default=0)
        temporary = self.folder / (".saving-step-%d" % step)
        target = self.folder / ("step-%d" % step)
        try:
            temporary.mkdir()
            _write_state(temporary, state)
            for name, write in writers.items():
                write(temporary / name)
            sync_tree(temporary)
            write_manifest(temporary, step=step, serial=serial, metric=metric)
            verify(temporary)
            self._publish(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        self._point()
        self._prune()
        return target

    def load(self, which: Union[str, int, Path] = "latest") -> Optional[Checkpoint]:
        """Read a checkpoint; None if there is none (for "best": none with a metric).

        Args:
            which: "latest" or "best", which fall back to the next intact one and tell what they skipped; or a step
                or folder, which must be intact.

        Raises:
            UserError: the named one is missing or damaged, or all are.
        """
        folder = self.find(which)
        return None if folder is None else _read(folder)

    def find(self, which: Union[str, int, Path] = "latest") -> Optional[Path]:
        """Folder that `load` would read, verified. Arguments and errors as there."""
        if which not in ("latest", "best"):
            folder = self._named(which)
            verify(folder)
            return folder
        ranked = self._ranked(str(which))
        for folder in ranked:
            try:
                verify(folder)
                return folder
            except UserError as error:
                self._tell("skipping checkpoint %s: %s" % (folder.name, error))
        if ranked:
            raise UserError("no checkpoint in %s is intact: restore one or start again with --overwrite" % self.folder)
        return None

    def steps(self) -> List[int]:
        """Steps of all checkpoints, damaged ones too; what a killed save left half-written is none."""
        return sorted(self._folders())

    def _named(self, which: Union[str, int, Path]) -> Path:
        step = _STEP.fullmatch(str(which)) or re.fullmatch(r"(\d+)", str(which))
        if not step:
            return Path(which) if isinstance(which, Path) else self.folder / str(which)
        folders = self._folders()
        if int(step[1]) not in folders:
            there = ", ".join(str(number) for number in sorted(folders)) or "none"
            raise UserError("no checkpoint of step %s in %s: there are %s" % (step[1], self.folder, there))
        return folders[int(step[1])]

    def _ranked(self, which: str) -> List[Path]:
        """Folders from the most wanted down; those without a readable manifest first, as one of them may be it."""
        readable, unreadable = self._manifests()
        ranked = _newest_first(readable) if which == "latest" else _best_first(readable)
        return unreadable + ranked if ranked or which == "latest" else []

    def _folders(self) -> Dict[int, Path]:
        """Step → folder. One that was being replaced when the run was killed counts until its successor is there."""
        if not self.folder.is_dir():
            return {}
        named = [(_FOLDER.fullmatch(path.name), path) for path in sorted(self.folder.iterdir()) if path.is_dir()]
        return {int(match[1]): path for match, path in named if match}  # ".replaced-step-N" sorts before "step-N"

    def _manifests(self) -> Tuple[Dict[Path, Manifest], List[Path]]:
        """Folders with their manifests, and folders whose manifest can't be read."""
        readable: Dict[Path, Manifest] = {}
        unreadable: List[Path] = []
        for folder in self._folders().values():
            try:
                readable[folder] = read_manifest(folder)
            except UserError:
                unreadable.append(folder)
        return readable, unreadable

    def _prepare(self) -> None:
        """Make the folder and clear what a killed run of ours left in it, before the first checkpoint."""
        if self._clean:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(self.folder.iterdir()):
            replaced = path.name.startswith(".replaced-") and _FOLDER.fullmatch(path.name)
            if replaced and not (self.folder / ("step-%s" % replaced[1])).exists():
                os.rename(path, self.folder / ("step-%s" % replaced[1]))
            elif replaced or (_LEFT_OVER.fullmatch(path.name) and path.is_dir()):
                shutil.rmtree(path)
            elif _LEFT_OVER.fullmatch(path.name):
                path.unlink()
        self._clean = True

    def _publish(self, temporary: Path, target: Path) -> None:
        replaced = self.folder / (".replaced-" + target.name)
        if target.exists():
            os.rename(target, replaced)
        os.rename(temporary, target)
        sync(self.folder)
        if replaced.exists():
            shutil.rmtree(replaced)

    def _point(self) -> None:
        readable, _ = self._manifests()
        for name, ranked in (("latest", _newest_first(readable)), ("best", _best_first(readable))):
            for folder in ranked[:1]:
                pointer = {"step": readable[folder].step, "folder": folder.name, "metric": readable[folder].metric}
                write_atomically(self.folder / (name + ".json"), json.dumps(pointer) + "\n")

    def _prune(self) -> None:
        if not self.keep:
            return
        readable, _ = self._manifests()
        kept = {*_newest_first(readable)[: self.keep], *_best_first(readable)[:1]}
        for folder in readable:
            if folder not in kept:
                removing = self.folder / (".removing-" + folder.name)
                os.rename(folder, removing)  # so that no reader takes it for a checkpoint half-way
                shutil.rmtree(removing)


def find(path: Union[str, Path], which: Union[str, int] = "latest") -> Path:
    """Folder of an intact checkpoint, from a run folder, its checkpoints folder or the checkpoint itself.

    Args:
        path: one of those folders; "latest", "best" or "step-N" may follow a run or checkpoints folder as a last part.
        which: "latest", "best" or a step; without meaning if `path` names the checkpoint.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = Path(path)
    if not path.exists() and (path.name in ("latest", "best") or _STEP.fullmatch(path.name)):
        path, which = path.parent, path.name
    if not path.is_dir():
        raise UserError("%s is not a folder: give a run folder or a checkpoint in it" % path)
    if (path / MANIFEST).is_file():
        verify(path)
        return path
    checkpoints = Checkpoints(path / "checkpoints" if (path / "checkpoints").is_dir() else path)
    found = checkpoints.find(which)
    if found is None:
        remedy = "train first or give another folder"
        if which == "best" and checkpoints.find() is not None:
            remedy = "none has a metric, ask for %s" % (path / "latest")
        raise UserError("%s has no %s checkpoint: %s" % (path, which, remedy))
    return found


def best_of_run(path: Union[str, Path]) -> str:
    """A run folder's best checkpoint, the latest of a run that was never evaluated; any other path or name as it is."""
    checkpoints = Path(path) / "checkpoints"
    if not checkpoints.is_dir():
        return str(path)
    return str(Checkpoints(checkpoints).find("best") or find(path))


def _newest_first(manifests: Mapping[Path, Manifest]) -> List[Path]:
    return sorted(manifests, key=lambda folder: -manifests[folder].serial)


def _best_first(manifests: Mapping[Path, Manifest]) -> List[Path]:
    """Folders that have a metric, the highest first, the earliest of equals."""
    merits = {folder: (-m.metric, m.serial) for folder, m in manifests.items() if m.metric is not None}
    return sorted(merits, key=lambda folder: merits[folder])


def _write_state(folder: Path, state: Mapping[str, Any]) -> None:
    value, tensors = tree.pack(state)
    (folder / STATE).write_text(json.dumps(value, allow_nan=False), encoding="utf-8")
    try:
        save_file(tensors, str(folder / TENSORS))
    except SafetensorError as error:
        refused = re.search(r"os error (\d+)", str(error))  # what the system said, if it did, is in the text only
        if not refused:
            raise
        raise OSError(int(refused[1]), os.strerror(int(refused[1])), str(folder / TENSORS)) from error


def _read(folder: Path) -> Checkpoint:
    manifest = read_manifest(folder)
    try:
        state = tree.unpack(json.loads((folder / STATE).read_bytes()), load_file(str(folder / TENSORS)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise UserError("%s holds no state that can be read (%s): use another checkpoint" % (folder, error)) from error
    return Checkpoint(manifest.step, state, folder, manifest.metric)
