"""Running the app's scripts as a user does."""

import os
import subprocess
import sys
from pathlib import Path
from typing import List, NamedTuple

APP = Path(__file__).resolve().parent.parent


class Finished(NamedTuple):
    status: int
    output: str
    error: str


def environment(**changes: str) -> dict:
    return dict(os.environ, OMP_NUM_THREADS="1", POPTORCH_HOST="1", POPTORCH_HOST_DEVICE="cpu", **changes)


def command(script: str, *arguments: object) -> List[str]:
    return [sys.executable, script, *map(str, arguments)]


def run_script(script: str, *arguments: object, timeout: float = 300, **changes: str) -> Finished:
    """Run one of the app's scripts as a user does, from the app's folder."""
    done = subprocess.run(
        command(script, *arguments),
        cwd=APP,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )
    return Finished(done.returncode, done.stdout, done.stderr)
