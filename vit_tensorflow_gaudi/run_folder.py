"""Run folder: made, locked against a second run, never mixed with an earlier one by accident."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Dict, Iterator, Optional

from distributed import Workers
from errors import UsageError, UserError
from files import write_atomically

# All that a run writes; --overwrite removes these and nothing else.
CONTENTS = ("config.json", "history.jsonl", "curves.png", "bad_images.txt", "weights.npz", "checkpoints", "logs")
LOCK = ".lock"


def choose(output: Optional[str], resume: Optional[str], model: str, workers: Workers) -> Path:
    """The run folder: as given; that of the run to resume; else the first free of output/MODEL, -2, …"""
    if output:
        return Path(output)
    if resume and is_run(Path(resume)):
        return Path(resume)

    def folder(number: int) -> Path:
        return Path("output") / (model if number == 1 else f"{model}-{number}")

    number = 1
    while workers.is_main and any((folder(number) / name).exists() for name in CONTENTS):
        number += 1
    return folder(workers.agree(number))


def is_run(path: Path) -> bool:
    """Whether `path` is a run folder, by the options that it holds."""
    return (path / "config.json").is_file()


def holds(run: Path, path: Path) -> bool:
    """Whether `path` is the run folder, or among what a run writes there."""
    run, path = run.resolve(), path.resolve()
    return is_run(run) and (path == run or any(run / name in (path, *path.parents) for name in CONTENTS))


@contextmanager
def open_run(path: Path, *, resuming: bool, overwrite: bool, workers: Workers) -> Iterator[Path]:
    """Make and lock the folder for the time of the context; the first process does it.

    Raises:
        UsageError: it holds an earlier run, and neither resuming nor overwriting was asked for.
        UserError: another process uses it, or it can't be made.
    """
    with ExitStack() as held:
        with workers.main_first():
            if workers.is_main:
                held.enter_context(_acquire(path))
                _admit(path, resuming, overwrite)
        yield path


def _acquire(path: Path) -> IO[str]:
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = open(path / LOCK, "a+", encoding="utf-8")  # noqa: SIM115 (held for the run)
    except OSError as error:
        raise UserError(f"{path} can't be used as run folder ({error.strerror}): give another --output") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        holder = lock.read() or "another process"
        lock.close()
        raise UserError(f"{path} is in use by {holder}: wait for it or give another --output") from error
    lock.truncate(0)
    lock.write(f"process {os.getpid()}")
    lock.flush()
    return lock


def _admit(path: Path, resuming: bool, overwrite: bool) -> None:
    if overwrite:
        for item in [path / name for name in CONTENTS if os.path.lexists(path / name)]:
            if item.is_dir() and not item.is_symlink():
                shutil.rmtree(item)
            else:
                item.unlink()
    elif not resuming and any((path / name).exists() for name in ("history.jsonl", "checkpoints")):
        raise UsageError(
            f"{path} holds an earlier run: go on with --resume_from_checkpoint_path {path}, "
            "or give --overwrite or another --output"
        )


def write_config(path: Path, config: Dict[str, Any]) -> None:
    """Save what a run is: its options, model and classes."""
    write_atomically(path / "config.json", json.dumps(config, indent=1) + "\n")


def read_config(path: Path) -> Dict[str, Any]:
    """The same, read.

    Raises:
        UserError: there is none, it is damaged, or another program's (Hugging Face's models have one, too).
    """
    try:
        content = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} holds no config.json that can be read: give a run folder") from error
    if not isinstance(content, dict) or not {"options", "vit", "class_names"} <= content.keys():
        raise UserError(f"{path} holds a config.json that is not of this program: give a run folder")
    return content
