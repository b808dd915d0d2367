"""Run folder: made, locked against a second run, and never mixed with an earlier one by accident."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Iterator, Set

from . import distributed
from .checkpoints import Checkpoints
from .errors import UsageError, UserError
from .launcher import say

# All that a run writes; --overwrite removes these and nothing else.
CONTENTS = (
    "config.yaml",
    "recipe.json",
    "results.json",
    "history.jsonl",
    "curves.png",
    "bad_images.txt",
    "checkpoints",
    "tensorboard",
    "wandb",
    "wandb-id.txt",
)
TRACES = ("history.jsonl", "checkpoints")  # of a run that has begun; --dry-run leaves a config.yaml only
LOCK = ".lock"
_held: Set[Path] = set()  # the system's locks are per process and don't stop a second one in this process


@dataclass(frozen=True)
class RunFolder:
    """An open run folder; `resuming` tells whether it holds checkpoints to go on from."""

    path: Path
    resuming: bool

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def config(self) -> Path:
        """File of the resolved options."""
        return self.path / "config.yaml"


@contextmanager
def open_run(path: Path, *, resume: bool, overwrite: bool = False, flag: str = "--output") -> Iterator[RunFolder]:
    """Make and lock the run folder for the time of the context.

    Only the first process writes and locks; the others wait for it and fail with it.

    Args:
        path: of the run folder.
        resume: go on with the run in it; an empty folder starts afresh and says so.
        overwrite: remove what an earlier run wrote there; other files stay.
        flag: what gives another run folder, for the messages.

    Raises:
        UsageError: it holds a run and neither was asked for, or both were.
        UserError: another process uses it, or it can't be made.
    """
    path = Path(path)
    if resume and overwrite:
        raise UsageError("--resume keeps the run folder and --overwrite empties it: give one of them")
    failure, lock = None, None
    resuming = False
    if distributed.is_main():
        try:
            lock = _acquire(path, flag)
            resuming = _admit(path, resume, overwrite, flag)
        except UserError as error:
            failure = error
    try:
        if distributed.any_rank(failure is not None):
            raise failure or UserError("the first process could not open the run folder: see its message")
        yield RunFolder(path, distributed.any_rank(resuming))
    finally:
        if lock is not None:
            lock.close()
            _held.discard(path.resolve())


def _acquire(path: Path, flag: str) -> IO[str]:
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = open(path / LOCK, "a+", encoding="utf-8")  # noqa: SIM115 (held for the run)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError("%s can't be used as run folder (%s): give another %s" % (path, reason, flag)) from error
    try:
        if path.resolve() in _held:
            raise BlockingIOError(errno.EAGAIN, "locked by this process")
        # Not flock: that would stay with loader processes that outlive a killed run for some seconds.
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            lock.seek(0)
            holder = _describe(lock.read())
            lock.close()
            raise UserError("%s is in use by %s: wait for it or give another %s" % (path, holder, flag)) from error
        say("%s can't be locked (%s): make sure that no other run uses it" % (path, error.strerror))
    lock.truncate(0)
    json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}, lock)
    lock.flush()
    _held.add(path.resolve())
    return lock


def _describe(text: str) -> str:
    try:
        holder = json.loads(text)
        return "process %(pid)s on %(host)s since %(since)s" % holder
    except (ValueError, KeyError, TypeError):
        return "another process"


def _admit(path: Path, resume: bool, overwrite: bool, flag: str) -> bool:
    """Whether there is something to resume, after the rules about an earlier run have been kept."""
    checkpoints = Checkpoints(path / "checkpoints").steps()
    if overwrite:
        for item in [path / name for name in CONTENTS if os.path.lexists(path / name)]:
            if item.is_dir() and not item.is_symlink():
                shutil.rmtree(item)
            else:
                item.unlink()
        return False
    if resume and not checkpoints:
        say("nothing to resume in %s: starting from the beginning" % path)
    elif not resume and any((path / name).exists() for name in TRACES):
        raise UsageError("%s holds an earlier run: give --resume, --overwrite or another %s" % (path, flag))
    return resume and bool(checkpoints)
