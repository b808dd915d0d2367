"""ruff, mypy, the Python 3.8 check of what must run on the Poplar SDK, and the copies of what apps share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import List, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TOOLS = Path(sys.executable).parent

# Must import on the SDK's Python 3.8. poptorch_host's engine needs a current torch, its choice of backend does not.
IPU_APPS = ["vit_pytorch_ipu", "mae_pytorch_ipu", "swin_pytorch_ipu"]
SDK_CODE = ["common", "remap_custom_op/torch_flags.py", *IPU_APPS, "poptorch_host/src/poptorch_host/backend.py"]
APPS = [*IPU_APPS, "vit_pytorch_gaudi", "vit_tensorflow_gaudi"]
# `.long()` is a tensor's, not Python 2's integer, which vermin takes it for. Annotations are never evaluated.
VERMIN = ["vermin", "--no-tips", "--violations", "--target=3.8-", "--backport=typing"]
VERMIN += ["--exclude", "long", "--exclude-regex", ".*/tests/.*"]


class Check(NamedTuple):
    """A name, the folder to run in from the root, and the command."""

    name: str
    folder: str
    command: List[str]


CHECKS = [
    Check("ruff check", ".", ["ruff", "check", "--quiet", "."]),
    Check("ruff format", ".", ["ruff", "format", "--check", "--quiet", "."]),
    Check("mypy common, ci, benchmarks, the op", ".", ["mypy", "common", "ci", "benchmarks", "remap_custom_op"]),
    Check("mypy poptorch_host", "poptorch_host/src", ["mypy", "--config-file=../../pyproject.toml", "."]),
    *(Check(f"mypy {app}", app, ["mypy", "--config-file=../pyproject.toml", "."]) for app in APPS),
    Check("Python 3.8", ".", [*VERMIN, *SDK_CODE]),
    Check("copies", ".", ["python", "ci/copies.py"]),
]


def main() -> None:
    """Run every check, print what failed, exit 1 if any did."""
    failed = []
    for check in CHECKS:
        command = [str(TOOLS / check.command[0]), *check.command[1:]]
        done = subprocess.run(command, cwd=ROOT / check.folder, capture_output=True, text=True)
        if done.returncode:
            failed.append(check.name)
            print(f"{check.name} failed\n{done.stdout}{done.stderr}", flush=True)
    if failed:
        sys.exit(f"lint: {', '.join(failed)} failed")
    print(f"lint: {len(CHECKS)} checks passed", flush=True)


if __name__ == "__main__":
    main()
