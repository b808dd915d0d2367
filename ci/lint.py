"""ruff, mypy, the Python 3.8 check of what must run on the Poplar SDK, and the copies of run/."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import List, Tuple

ROOT = Path(__file__).resolve().parent.parent

# Must import on the SDK's Python 3.8. poptorch_host's engine needs a current torch, its choice of backend does not.
SDK_CODE = [
    "common",
    "vit_pytorch_ipu",
    "poptorch_host/src/poptorch_host/backend.py",
]


def checks() -> List[Tuple[str, Path, List[str]]]:
    """Name, folder and arguments (after `python -m`) of each check."""
    vermin = [
        "vermin",
        "--no-tips",
        "--violations",
        "--target=3.8-",
        "--eval-annotations",
        "--backport=typing",
    ]
    return [
        ("ruff check", ROOT, ["ruff", "check", "--quiet", "."]),
        ("ruff format", ROOT, ["ruff", "format", "--check", "--quiet", "."]),
        ("mypy common, ci", ROOT, ["mypy", "common", "ci"]),
        ("mypy benchmarks", ROOT, ["mypy", "benchmarks"]),
        ("mypy poptorch_host", ROOT / "poptorch_host", ["mypy", "--config-file", "../pyproject.toml", "src"]),
        (
            "mypy vit_pytorch_ipu",
            ROOT / "vit_pytorch_ipu",
            ["mypy", "--config-file", "../pyproject.toml", "."],
        ),
        ("Python 3.8", ROOT, [*vermin, *SDK_CODE]),
    ]


def main() -> None:
    """Run every check, print what failed, exit 1 if any did."""
    failed = []
    for name, folder, arguments in checks():
        done = subprocess.run([sys.executable, "-m", *arguments], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            failed.append(name)
            print(f"lint: {name} failed\n{done.stdout}{done.stderr}", flush=True)
    copies = subprocess.run([sys.executable, ROOT / "ci" / "copies.py"])
    if failed or copies.returncode:
        sys.exit("lint: failed")
    print("lint: %d checks and the copies of run/ are clean" % len(checks()), flush=True)


if __name__ == "__main__":
    main()
