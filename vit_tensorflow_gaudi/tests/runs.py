"""Running the app's scripts as a user does, on small data."""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import List, NamedTuple

import numpy as np
import pytest
from sklearn.datasets import load_digits

from errors import entry_point
from tests.shard_data import encode, write_shards

APP = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
# A ViT of three thousand parameters: an update takes milliseconds, the graph a second or two.
TINY = ["--image_size", "16", "--patch_size", "8", "--hidden_size", "16", "--num_layers", "1", "--num_heads", "2"]
TINY += ["--mlp_dim", "16", "--weights", "none", "--device", "CPU", "--batch_size", "8", "--grad_accum_steps", "2"]
TINY += ["--warmup_steps", "4", "--log_every", "1"]


class Finished(NamedTuple):
    status: int
    output: str
    error: str


def write_digits(folder: Path, train: int, validation: int) -> Path:
    scans = load_digits()
    pixels = (scans.images * (255 / 16)).astype(np.uint8).repeat(2, 1).repeat(2, 2)[..., None].repeat(3, 3)
    for split, start, count in (("train", 0, train), ("validation", train, validation)):
        images = [encode(pixels[number]) for number in range(start, start + count)]
        write_shards(folder, split, images, labels=[int(n) + 1 for n in scans.target[start : start + count]])
    return folder


def tiny(data: Path, output: Path, *more: object) -> List[str]:
    return ["--dataset", str(data), "--output", str(output), *TINY, *map(str, more)]


def call(script, capsys, *arguments) -> Finished:
    main = import_module(script[: -len(".py")]).main
    with pytest.raises(SystemExit) as ended:
        entry_point(main, list(map(str, arguments)))
    captured = capsys.readouterr()
    return Finished(int(ended.value.code or 0), captured.out, captured.err)


def environment(**changes: str) -> dict:
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    mpi = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    mpi["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"
    return {**os.environ, **mpi, "PATH": path, **changes}


def command(script: str, *arguments: object, ranks: int = 0) -> List[str]:
    launcher = ["mpirun", "-np", str(ranks)] if ranks else []
    return [*launcher, sys.executable, script, *map(str, arguments)]


def run_script(script: str, *arguments: object, ranks: int = 0, **changes: str) -> Finished:
    done = subprocess.run(
        command(script, *arguments, ranks=ranks),
        cwd=APP,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def measured(folder: Path):
    """What a run's history says, times left out."""
    records = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k not in ("time", "throughput")} for record in records]


def final_weights(folder: Path):
    with np.load(folder / "weights.npz") as file:
        return {name: file[name] for name in file.files}


def same_weights(one: Path, other: Path) -> bool:
    first, second = final_weights(one), final_weights(other)
    return first.keys() == second.keys() and all((first[name] == second[name]).all() for name in first)
