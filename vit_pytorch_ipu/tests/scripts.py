"""Running the app's scripts as a user does."""

import os
import subprocess
import sys
from pathlib import Path
from typing import List, NamedTuple

APP = Path(__file__).resolve().parent.parent

# A ViT of 20 thousand parameters on the digits config: a step takes milliseconds.
TINY = ["--hidden-size", "32", "--num-hidden-layers", "2", "--num-attention-heads", "2", "--mlp-dim", "64"]
TINY += ["--layers-per-ipu", "2", "--patches-size", "8", "--micro-batch-size", "8", "--dataloader-workers", "0"]
TINY += ["--warmup-steps", "2", "--log-every", "1", "--tensorboard", "false"]
TINY += ["--gradient-accumulation", "2", "--device-iterations", "2", "--drop-path-rate", "0"]


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


def tiny(digits: Path, output: Path, *more: object) -> List[str]:
    """Arguments of a tiny run on the digits sample."""
    return ["--config", "digits", "--dataset-path", str(digits), "--output", str(output), *TINY, *map(str, more)]
