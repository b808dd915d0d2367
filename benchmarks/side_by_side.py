"""Training steps side by side with what people would use instead, in turn on one machine.

    python -m benchmarks.side_by_side mae                    # MAE ViT-B/16 pretraining, against transformers
    python -m benchmarks.side_by_side swin --repeats 9       # Swin-T, against timm and torchvision
    python -m benchmarks.side_by_side vit_gaudi --json out.json
    .venv/tensorflow/bin/python -m benchmarks.side_by_side keras_vit     # the Keras app, against plain Keras

Each contender is a process of its own, which builds its model once and then waits for its turn, so that the apps'
modules don't meet and only one computes at a time. A turn is one optimizer step of a whole batch. Ours is the app's own
path; a peer is trained with bfloat16 autocast and fused AdamW, with each of its attention settings. A step ends with
its loss on the host. Times are process CPU time and wall time; ratios (peer / ours, above 1: ours is faster) are taken
turn by turn.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import time
from importlib import import_module
from importlib.metadata import distributions, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Dict, List, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
WORKS = ("mae", "swin", "vit_gaudi", "keras_vit")
PACKAGES = ("torch", "torchvision", "timm", "transformers", "tensorflow-cpu", "keras")


class Settings(NamedTuple):
    """What every contender is told."""

    batch_size: int
    image_size: int
    device: str
    threads: int


class Turn(NamedTuple):
    """Seconds that one step took."""

    cpu: float
    wall: float


def work_at(connection: Connection, work: str, contender: str, settings: Settings) -> None:
    """Build `contender` of benchmarks.contenders.`work` and make one step for each message that is not None."""
    step = getattr(import_module(f"benchmarks.contenders.{work}"), contender)(settings)
    connection.send("ready")
    while connection.recv() is not None:
        cpu, wall = time.process_time(), time.perf_counter()
        step()
        connection.send(Turn(time.process_time() - cpu, time.perf_counter() - wall))


class Contender:
    """A process that makes steps of one implementation on demand."""

    def __init__(self, work: str, name: str, settings: Settings) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=work_at, args=(theirs, work, name, settings), daemon=True)
        self.process.start()
        theirs.close()
        self.connection.recv()

    def step(self) -> Turn:
        """Make one step."""
        self.connection.send("step")
        turn: Turn = self.connection.recv()
        return turn

    def close(self) -> None:
        """End the process."""
        self.connection.send(None)
        self.process.join()


def measure(work: str, names: List[str], settings: Settings, warm_up: int, repeats: int) -> Dict[str, List[Turn]]:
    """Turns of every contender, interleaved: A B C, C B A, …"""
    contenders = {name: Contender(work, name, settings) for name in names}
    turns: Dict[str, List[Turn]] = {name: [] for name in names}
    for repeat in range(warm_up + repeats):
        for name in names if repeat % 2 == 0 else reversed(names):
            turn = contenders[name].step()
            if repeat >= warm_up:
                turns[name].append(turn)
    for contender in contenders.values():
        contender.close()
    return turns


def summarise(turns: Dict[str, List[Turn]], settings: Settings) -> Dict[str, Any]:
    """Medians, images per second, and each one's ratio to "ours" with its quartiles."""
    rows: Dict[str, Any] = {}
    for name, taken in turns.items():
        row: Dict[str, Any] = {}
        for clock in Turn._fields:
            ratios = [getattr(mine, clock) / getattr(ours, clock) for mine, ours in zip(taken, turns["ours"])]
            row[f"{clock}_ms"] = 1e3 * statistics.median(getattr(turn, clock) for turn in taken)
            row[f"{clock}_ratio"] = statistics.median(ratios)
            row[f"{clock}_ratio_quartiles"] = statistics.quantiles(ratios, n=4)[::2]
        row["images_per_second"] = 1e3 * settings.batch_size / row["wall_ms"]
        rows[name] = row
    return rows


def table(rows: Dict[str, Any]) -> str:
    """Markdown."""
    lines = ["| | img/s | CPU ms | wall ms | CPU time / ours (quartiles) |", "|---|---|---|---|---|"]
    for name, row in rows.items():
        low, high = row["cpu_ratio_quartiles"]
        times = f"{row['images_per_second']:.2f} | {row['cpu_ms']:.0f} | {row['wall_ms']:.0f}"
        lines.append(f"| {name} | {times} | {row['cpu_ratio']:.2f} ({low:.2f}–{high:.2f}) |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("work", choices=WORKS)
    parser.add_argument("--contenders", nargs="+", help="ours and which others; default all")
    for name, default in (("batch-size", 8), ("image-size", 224), ("threads", 1), ("warm-up", 1), ("repeats", 7)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, help="also write settings, versions and results here")
    args = parser.parse_args()

    # Set before a contender loads torch: idle threads that spin would take the time of whose turn it is.
    os.environ.update(OMP_NUM_THREADS=str(args.threads), OMP_WAIT_POLICY="passive", POPTORCH_HOST="1")
    os.environ["POPTORCH_HOST_DEVICE"] = args.device
    settings = Settings(args.batch_size, args.image_size, args.device, args.threads)
    names = args.contenders or import_module(f"benchmarks.contenders.{args.work}").CONTENDERS
    if "ours" not in names or len(names) < 2:
        parser.error("give ours and at least one other contender")
    rows = summarise(measure(args.work, names, settings, args.warm_up, args.repeats), settings)
    print(table(rows))
    versions = {name: version(name) for name in PACKAGES if any(distributions(name=name))}
    described = {"work": args.work, **settings._asdict(), "python": platform.python_version(), **versions}
    print(", ".join(f"{name} {value}" for name, value in described.items()))
    if args.json:
        args.json.write_text(json.dumps({"settings": described, "results": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
