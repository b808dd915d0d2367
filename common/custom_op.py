"""Build and load a C++ custom op: run its Makefile once, and again only when its sources or tools change."""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Iterator, List, Optional, Union

BUILD = "build"
_TOOLS = ("CXX", "CXXFLAGS", "POPLAR_SDK_ENABLED")  # another value of these gives another library


class CustomOpError(RuntimeError):
    """The op cannot be built or loaded; the text names the cause and its remedy."""


def build(source_folder: Union[str, os.PathLike[str]], target: str = "") -> Path:
    """The shared library that `make TARGET` makes of `source_folder`, kept in its build/HASH/.

    `make` runs in a copy without tests and texts, so the folder must not refer to files outside itself, and the target
    (default: the Makefile's first) must leave exactly one .so file. It gets the running Python as PYTHON. Of several
    processes that start at once, one builds and the others wait for it. CustomOpError if there are no sources, no
    make, or the build fails.
    """
    source = Path(source_folder).resolve()
    if not (source / "Makefile").is_file():
        raise CustomOpError(f"{source} has no Makefile: pass the folder with the op's sources.")
    kept = source / BUILD / _fingerprint(source, target)
    try:
        kept.parent.mkdir(exist_ok=True)
        with open(f"{kept}.lock", "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released with the process, however it ends
            if not kept.is_dir():
                _make(source, target, kept)
    except OSError as error:
        raise CustomOpError(f"{kept} cannot be made ({error.strerror}): use a writable copy of {source}.") from error
    return next(kept.glob("*.so"))


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
        if path.is_file() and not made and parts[0] != "tests" and path.suffix != ".md":
            yield path


def _torch_version() -> str:
    """Of the torch that the library would be built for, without the seconds that importing it takes."""
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return ""


def _fingerprint(source: Path, target: str) -> str:
    tools = (os.environ.get(name, "") for name in _TOOLS)
    total = hashlib.sha256("\0".join([target, platform.machine(), _torch_version(), *tools]).encode())
    for path in _files(source):
        total.update(f"\0{path.relative_to(source).as_posix()}\0".encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]


def _make(source: Path, target: str, kept: Path) -> None:
    make = shutil.which("make")
    if make is None:
        raise CustomOpError("make is not on PATH: install make and g++.")
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix=f"{kept.name}.", suffix=".tmp") as temporary:
        work, done = Path(temporary, "work"), Path(temporary, "done")
        for path in _files(source):
            copy = work / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)
        # A make that started us would pass its options on.
        inherited = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS")}
        result = subprocess.run(
            [make, *([target] if target else [])],
            cwd=work,
            env={**inherited, "PYTHON": sys.executable},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if result.returncode != 0:
            lines = result.stdout.decode(errors="replace").strip().splitlines()[-20:]
            raise CustomOpError("\n".join([f"make failed in a copy of {source}: correct what it says.", *lines]))
        libraries = [path for path in work.rglob("*.so") if not path.is_symlink()]
        if len(libraries) != 1:
            raise CustomOpError(f"make in {source} left {len(libraries)} .so files: it must make exactly one.")
        done.mkdir()
        shutil.copy2(libraries[0], done / libraries[0].name)
        os.rename(done, kept)  # all or nothing, for readers that do not take the lock


def main(arguments: Optional[List[str]] = None) -> None:
    """Command line: build, print where the library lies, and copy it to --output."""
    parser = argparse.ArgumentParser(prog="python -m common.custom_op", description=__doc__)
    parser.add_argument("folder", type=Path, help="the op's sources, with a Makefile")
    parser.add_argument("target", nargs="?", default="", help="what to make there (default: the first target)")
    parser.add_argument("--output", type=Path, help="copy the library to this file")
    given = parser.parse_args(arguments)
    try:
        library = build(given.folder, given.target)
    except CustomOpError as error:
        sys.exit(str(error))
    if given.output:
        temporary = given.output.with_name(f"{given.output.name}.{os.getpid()}.tmp")
        shutil.copy2(library, temporary)
        os.replace(temporary, given.output)
    print(given.output or library)


if __name__ == "__main__":
    main()
