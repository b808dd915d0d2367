"""Build and load a C++ custom op: run its Makefile once, and again only when its sources or tools change."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Iterator, Union

BUILD = "build"
_TOOLS = ("CXX", "CXXFLAGS", "POPLAR_SDK_ENABLED")  # another value of these gives another library


class CustomOpError(RuntimeError):
    """The op cannot be built or loaded; the text names the cause and its remedy."""


def build(source_folder: Union[str, os.PathLike[str]]) -> Path:
    """The shared library that `make` makes of `source_folder`, kept in its build/HASH/.

    `make` runs in a copy, so the folder must not refer to files outside itself, and its Makefile must leave
    exactly one .so file. Of several processes that start at once, one builds and the others wait for it.
    CustomOpError if there are no sources, no make, or the build fails.
    """
    source = Path(source_folder).resolve()
    if not (source / "Makefile").is_file():
        raise CustomOpError(f"{source} has no Makefile: pass the folder with the op's sources.")
    target = source / BUILD / _fingerprint(source)
    try:
        target.parent.mkdir(exist_ok=True)
        with open(f"{target}.lock", "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released with the process, however it ends
            if not target.is_dir():
                _make(source, target)
    except OSError as error:
        raise CustomOpError(f"{target} cannot be made ({error.strerror}): use a writable copy of {source}.") from error
    return next(target.glob("*.so"))


def load(path: Union[str, os.PathLike[str]]) -> None:
    """Load the library at `path` and register its operators with torch; CustomOpError if that fails."""
    import torch  # not needed to build

    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        raise CustomOpError(f"{path} cannot be loaded ({error}): build it again on this machine.") from error


def _files(source: Path) -> Iterator[Path]:
    for path in sorted(source.rglob("*")):
        parts = path.relative_to(source).parts
        made = parts[0] == BUILD or path.suffix in (".o", ".so", ".pyc") or any(part.startswith(".") for part in parts)
        if path.is_file() and not made:
            yield path


def _fingerprint(source: Path) -> str:
    total = hashlib.sha256("\0".join([platform.machine(), *(os.environ.get(name, "") for name in _TOOLS)]).encode())
    for path in _files(source):
        total.update(f"\0{path.relative_to(source).as_posix()}\0".encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]


def _make(source: Path, target: Path) -> None:
    make = shutil.which("make")
    if make is None:
        raise CustomOpError("make is not on PATH: install make and g++.")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{target.name}.", suffix=".tmp") as temporary:
        work, done = Path(temporary, "work"), Path(temporary, "done")
        for path in _files(source):
            copy = work / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)
        # A make that started us would pass its options on.
        environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS")}
        result = subprocess.run(
            [make], cwd=work, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        if result.returncode != 0:
            lines = result.stdout.decode(errors="replace").strip().splitlines()[-20:]
            raise CustomOpError("\n".join([f"make failed in a copy of {source}: correct what it says.", *lines]))
        libraries = [path for path in work.rglob("*.so") if not path.is_symlink()]
        if len(libraries) != 1:
            raise CustomOpError(f"make in {source} left {len(libraries)} .so files: it must make exactly one.")
        done.mkdir()
        shutil.copy2(libraries[0], done / libraries[0].name)
        os.rename(done, target)  # all or nothing, for readers that do not take the lock
