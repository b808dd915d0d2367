"""Make the Python environments under .venv from the requirement files; standard library only.

An environment is up to date when its stamp holds the digest of everything that it was made from. It is made under
a lock, so that two `make` commands started together do not disturb each other.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import subprocess
import sys
import venv
from pathlib import Path
from typing import List

ROOT = Path(__file__).resolve().parent.parent

# Apps' requirement files name ../poptorch_host and .. relative to the app, so each is installed from its own folder.
TORCH_APPS = ["vit_pytorch_ipu", "mae_pytorch_ipu", "swin_pytorch_ipu", "vit_pytorch_gaudi"]
REQUIREMENTS = {
    "torch": [*(f"{app}/requirements.txt" for app in TORCH_APPS), "ci/requirements-torch.txt"],
    "tensorflow": ["vit_tensorflow_gaudi/requirements.txt", "ci/requirements-tensorflow.txt"],
}
VERSION = (3, 11)  # the only one that both TensorFlow 2.15 and the torch apps' numpy have
PROJECTS = ["pyproject.toml", "poptorch_host/pyproject.toml"]


def digest(files: List[str]) -> str:
    """SHA-256 over the Python version and the contents of `files` (paths from the root)."""
    content = hashlib.sha256(sys.version.encode())
    for name in files:
        content.update(name.encode() + b"\0" + (ROOT / name).read_bytes())
    return content.hexdigest()


def is_this_version(python: Path) -> bool:
    """Whether `python` runs and is of the version that runs this."""
    if not python.exists():
        return False
    command = [str(python), "-c", "import sys, pip; print(sys.version)"]
    return subprocess.run(command, capture_output=True, text=True).stdout == sys.version + "\n"


def make(name: str) -> None:
    """Create or renew `.venv/<name>`; a no-op when its stamp matches the requirement files."""
    folder = ROOT / ".venv" / name
    folder.parent.mkdir(exist_ok=True)
    stamp = folder / "stamp"
    with open(ROOT / ".venv" / (name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = digest(REQUIREMENTS[name] + PROJECTS)
        python = folder / "bin" / "python"
        if python.exists() and stamp.is_file() and stamp.read_text() == wanted:
            return
        print(f"setting up .venv/{name} (several GB, some minutes the first time)", flush=True)
        if not is_this_version(python):
            venv.create(folder, with_pip=True, symlinks=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for requirements in REQUIREMENTS[name]:
            path = ROOT / requirements
            subprocess.run([*pip, "--requirement", path.name], cwd=path.parent, check=True)
        stamp.write_text(wanted)


def main() -> None:
    """Command line: the names of the environments to make."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="+", choices=sorted(REQUIREMENTS))
    names = parser.parse_args().names
    if sys.version_info[:2] != VERSION:
        here, wanted = (".".join(map(str, version)) for version in (sys.version_info[:2], VERSION))
        sys.exit(f"error: this is Python {here}, the environments need {wanted}: add PYTHON=python{wanted} to make")
    try:
        for name in names:
            make(name)
    except subprocess.CalledProcessError as error:
        sys.exit("error: pip ended with %d; its message stands above" % error.returncode)


if __name__ == "__main__":
    main()
