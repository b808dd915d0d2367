"""Tiny runs of the training scripts on the digits sample, and what they leave behind."""

import json
import subprocess
import sys
from pathlib import Path
from typing import List

from safetensors.torch import load_file

from tests.scripts import APP, Finished, environment

# Sixteen patches, some ten thousand parameters: a step takes milliseconds.
TINY = ["--embed-dim", 16, "--depth", 2, "--num-heads", 2, "--mlp-dim", 32, "--patch-size", 8, "--num-workers", 0]
TINY += ["--batch-size", 8, "--gradient-accumulation-count", 2, "--log-every", 1, "--tensorboard", "false"]
DECODER = ["--decoder-embed-dim", 16, "--decoder-depth", 1, "--decoder-num-heads", 2, "--pipeline", 2, 1]


def tiny_pretraining(digits: Path, output: Path, *more: object) -> List[str]:
    """Arguments of main_pretrain.py."""
    return _words("digits_pretrain", digits, output, *TINY, *DECODER, *more)


def tiny_finetuning(digits: Path, output: Path, *more: object) -> List[str]:
    """Arguments of main_finetune.py, from random weights unless `more` says otherwise."""
    return _words("digits_scratch", digits, output, *TINY, "--pipeline", 2, *more)


def tiny_probing(digits: Path, output: Path, *more: object) -> List[str]:
    """Arguments of main_linprobe.py, on random weights unless `more` says otherwise."""
    return _words("digits_linprobe", digits, output, *TINY, "--pipeline", 2, "--finetune", "", *more)


def tiny_validation(digits: Path, output: Path, resume: Path, *more: object) -> List[str]:
    """Arguments of finetune_validate.py."""
    return _words("digits_validate", digits, output, "--resume", resume, "--num-workers", 0, *more)


def _words(config: str, digits: Path, output: Path, *more: object) -> List[str]:
    return ["--config", config, "--data-path", str(digits), "--output", str(output), *map(str, more)]


def records(folder: Path, split: str = "train") -> list:
    """A run's history."""
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == split]


def losses(folder: Path, split: str = "train") -> list:
    return [line["loss"] for line in records(folder, split)]


def measured(folder: Path) -> list:
    """The history without times and speeds."""
    left_out = ("time", "throughput")
    both = records(folder) + records(folder, "validation")
    return [{name: value for name, value in line.items() if name not in left_out} for line in both]


def newest(folder: Path) -> Path:
    """The latest checkpoint."""
    return folder / "checkpoints" / json.loads((folder / "checkpoints" / "latest.json").read_text())["folder"]


def weights(folder: Path) -> dict:
    return load_file(newest(folder) / "weights" / "model.safetensors")


def same_bits(one: Path, other: Path) -> bool:
    """Whether two runs ended in the same weights."""
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(bool((first[name] == second[name]).all()) for name in first)


LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def run_on_two(script: str, *arguments: object) -> Finished:
    """Run a script under torchrun."""
    done = subprocess.run(
        [*LAUNCHER, script, *map(str, arguments)],
        cwd=APP,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    return Finished(done.returncode, done.stdout, done.stderr)
