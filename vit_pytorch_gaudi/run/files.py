"""Files that are there whole or not at all: atomic writes, fsync and digests."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Iterator, Union


def write_atomically(path: Path, content: Union[str, bytes]) -> None:
    """Replace `path` by `content`; a reader, or a crash at any moment, finds the old file or the new one."""
    temporary = path.with_name(".%s.%d.tmp" % (path.name, os.getpid()))
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        if temporary.exists():
            temporary.unlink()
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Flush a folder with all that is in it to the disk, contents before names."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(Path(parent, name))
        sync(Path(parent))


def files_below(folder: Path) -> Iterator[str]:
    """Names of all files below `folder`, relative to it, with forward slashes, in order."""
    found = [Path(parent, name) for parent, _, names in os.walk(folder) for name in names]
    yield from sorted(path.relative_to(folder).as_posix() for path in found)


def digest(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    result = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            result.update(block)
    return result.hexdigest()
