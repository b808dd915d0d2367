"""Running the app's scripts as a user does."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import List, NamedTuple

APP = Path(__file__).resolve().parent.parent

# A ViT of 20 thousand parameters on the digits: a step takes milliseconds.
TINY = ["--dataset", "folder", "--pretrained_dir", "none", "--device", "cpu", "--img_size", "32", "--patches_size", "8"]
TINY += ["--hidden_size", "32", "--num_hidden_layers", "2", "--num_attention_heads", "2", "--mlp_dim", "64"]
TINY += ["--train_batch_size", "16", "--gradient_accumulation_steps", "2", "--warmup_steps", "2", "--eval_every", "0"]
TINY += ["--learning_rate", "0.03", "--dataloader_workers", "0", "--log_every", "1", "--tensorboard", "false"]


class Finished(NamedTuple):
    status: int
    output: str
    error: str


def environment(**changes: str) -> dict:
    return dict(os.environ, OMP_NUM_THREADS="1", GOMP_SPINCOUNT="0", **changes)


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


def tiny(digits: Path, folder: Path, *more: object) -> List[str]:
    """Arguments of a tiny run on the digits sample, in the run folder `folder`."""
    place = ["--name", folder.name, "--output_dir", str(folder.parent), "--data_path", str(digits)]
    return [*place, *TINY, *map(str, more)]


def records(folder: Path, split: str) -> List[dict]:
    """What the history says of a split."""
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == split]
