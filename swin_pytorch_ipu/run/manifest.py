"""manifest.json of a checkpoint: size and SHA-256 of every file, and of itself."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

from .errors import UserError
from .files import digest, files_below, write_atomically

MANIFEST = "manifest.json"
FORMAT = 1


class Manifest(NamedTuple):
    """What a checkpoint says about itself.

    `serial` counts the checkpoints of a run in the order of writing; `metric` is None where nothing was measured.
    `files`: name relative to the folder → [bytes, SHA-256].
    """

    step: int
    serial: int
    metric: Optional[float]
    files: Dict[str, List[Any]]


def write_manifest(folder: Path, *, step: int, serial: int, metric: Optional[float]) -> None:
    """List all files of `folder` in its manifest. A metric that is not finite counts as none."""
    files = {name: [(folder / name).stat().st_size, digest(folder / name)] for name in files_below(folder)}
    measured = None if metric is None or not math.isfinite(metric) else float(metric)
    write_atomically(folder / MANIFEST, _render(Manifest(step, serial, measured, files)))


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a checkpoint's folder.

    Raises:
        UserError: it is missing, of another format or changed by as much as a byte.
    """
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
        content = json.loads(text)
        found = Manifest(content["step"], content["serial"], content["metric"], content["files"])
        intact = _render(found).encode() == text
        written_as = content["format"]
    except OSError as error:
        raise UserError("%s can't be read (%s): it is no complete checkpoint" % (path, error.strerror)) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError("%s is damaged: restore it or use another checkpoint" % path) from error
    if written_as != FORMAT:
        raise UserError(
            "%s has format %s, this program reads %d: use the version that wrote it" % (path, written_as, FORMAT)
        )
    if not intact:
        raise UserError("%s is damaged: restore it or use another checkpoint" % path)
    return found


def verify(folder: Path) -> None:
    """Check that every file of a checkpoint is there with the size and content it was written with.

    Raises:
        UserError: names the first file that is not.
    """
    for name, (size, expected) in read_manifest(folder).files.items():
        path = folder / name
        try:
            found = path.stat().st_size
            wrong = "has %d bytes, %d were written" % (found, size) if found != size else ""
            if not wrong and digest(path) != expected:
                wrong = "has another SHA-256 than was written"
        except OSError as error:
            wrong = "can't be read (%s)" % error.strerror
        if wrong:
            raise UserError("%s %s: restore the file or use another checkpoint" % (path, wrong))


def _render(manifest: Manifest) -> str:
    """Text of the manifest; its digest covers all the rest, and reading compares the text byte by byte."""
    body = {"format": FORMAT, **manifest._asdict()}
    sha256 = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({**body, "sha256": sha256}, indent=1, sort_keys=True) + "\n"
