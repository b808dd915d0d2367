"""What a run leaves, read from outside the app: history, checkpoints, the bits of its weights."""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any, Dict, List, Set, Tuple

import numpy as np

from ci.faults.apps import KERAS, App

_TIMES = ("time", "throughput")
_NUMBER = re.compile(r"(?:step-(\d+)|ckpt-(\d+)\.sha256)")
_LEFT_OVER = re.compile(
    r"\.(saving|replaced|removing)-step-\d+|\.(latest|best)\.json\.\d+\.tmp|\.?ckpt-\d+.*(_temp|\.tmp)"
)


def steps_done(run: Path) -> int:
    """Steps in the history, which is written as the run goes."""
    path = run / "history.jsonl"
    return path.read_bytes().count(b'"train"') if path.exists() else 0


def history(run: Path) -> List[Dict[str, Any]]:
    """What was measured, times left out."""
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in _TIMES} for line in lines if line["split"] != "speed"]


def checkpoints(run: Path) -> Dict[int, Path]:
    """Step → finished checkpoint, a folder or the file that completes TensorFlow's, the newest last."""
    if not (run / "checkpoints").is_dir():
        return {}
    found = [(_NUMBER.fullmatch(path.name), path) for path in (run / "checkpoints").iterdir()]
    return dict(sorted((int(match[1] or match[2]), path) for match, path in found if match))


def unfinished(run: Path) -> Set[Tuple[str, int]]:
    """Traces of checkpoints that are not finished: name and inode."""
    found = set()
    with contextlib.suppress(FileNotFoundError):  # no folder yet, or renamed in this moment
        entries = {entry.name: entry.inode() for entry in os.scandir(run / "checkpoints")}
        for name, inode in entries.items():
            parts = name.startswith("ckpt-") and f"{name.partition('.')[0]}.sha256" not in entries
            if _LEFT_OVER.fullmatch(name) or parts:
                found.add((name, inode))
    return found


def newest_files(app: App, run: Path) -> List[Path]:
    """All files of the newest checkpoint."""
    newest = list(checkpoints(run).values())[-1]
    if app.name == KERAS:
        return sorted(newest.parent.glob(newest.stem + ".*"))
    return sorted(path for path in newest.rglob("*") if path.is_file())


def _weights(app: App, run: Path) -> Dict[str, bytes]:
    """Name → bytes of what the run ended in: weights, and in torch the state of optimizer and random generators."""
    if app.name == KERAS:
        with np.load(run / "weights.npz") as arrays:
            return {name: arrays[name].tobytes() for name in arrays.files}
    files = [path for path in newest_files(app, run) if path.suffix == ".safetensors"]
    return {path.name + str(number): path.read_bytes() for number, path in enumerate(files)}


def differing_bits(app: App, run: Path, whole: Path) -> int:
    """Bits in which a run's final weights differ from those of the undisturbed run."""
    found, expected = _weights(app, run), _weights(app, whole)
    bits = 0
    for name in sorted({*found, *expected}):
        one, other = found.get(name, b""), expected.get(name, b"")
        width = max(len(one), len(other))
        both = int.from_bytes(one.ljust(width, b"\0"), "big") ^ int.from_bytes(other.ljust(width, b"\0"), "big")
        bits += both.bit_count() + 8 * abs(len(one) - len(other))
    return bits


def same_end(app: App, run: Path, whole: Path) -> str:
    """What is different at the end of a run from the undisturbed one; empty if nothing is."""
    if list(checkpoints(run))[-1:] != list(checkpoints(whole))[-1:]:
        return f"it ended at step {list(checkpoints(run))[-1:]}"
    bits = differing_bits(app, run, whole)
    if bits:
        return f"{bits} bits of the final weights differ"
    if history(run) != history(whole):
        missing = [line for line in history(whole) if line not in history(run)]
        return f"the history differs: {len(history(run))} entries, missing {missing[:2]}"
    return ""
