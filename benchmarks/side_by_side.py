"""A training or inference step side by side with what people would use instead, in turn on one machine.

    python -m benchmarks.side_by_side vit_b                   # ViT-B/16, against timm and transformers
    python -m benchmarks.side_by_side swin --contenders ours timm_compiled matmul --repeats 9
    python -m benchmarks.side_by_side vit_ti --dtype fp32 --mode inference --json out.json
    .venv/tensorflow/bin/python -m benchmarks.side_by_side keras_vit     # the Keras app, against plain Keras

Each contender is a process of its own, which builds its model once and then waits for its turn, so that the apps'
modules don't meet and only one computes at a time. A turn is one optimizer step of a whole batch, or several. Ours is
the app's own path. Ratios (peer / ours, above 1: ours is faster) are taken turn by turn.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any, Dict, List

from benchmarks.interleaved import (
    MATMUL,
    OURS,
    WITH_HELPERS,
    WORKS,
    ContenderFailedError,
    Measured,
    Settings,
    Turn,
    contenders_of,
    measure,
)
from benchmarks.machine import machine, versions
from benchmarks.report import step_table


def clock_of(settings: Settings) -> str:
    """The clock that counts: where one thread does it all, its own time leaves out what else the machine does."""
    is_alone = settings.device == "cpu" and settings.threads == 1 and settings.work not in WITH_HELPERS
    return "cpu" if is_alone else "wall"


def names_for(settings: Settings) -> List[str]:
    """All contenders of the settings' work; mixed precision is none of float32's."""
    known = contenders_of(settings.work)
    return [name for name in known if settings.dtype == "bf16" or not name.endswith("_mixed")]


def summarise(measured: Measured, clock: str) -> Dict[str, Dict[str, Any]]:
    """Of each contender medians, images per second, ratio to ours with its quartiles, and share of the peak."""
    rows: Dict[str, Dict[str, Any]] = {}
    for name, taken in measured.turns.items():
        facts = measured.facts[name]
        row: Dict[str, Any] = facts._asdict()
        for each in Turn._fields:
            row[f"{each}_ms"] = 1e3 * statistics.median(getattr(turn, each) for turn in taken)
        seconds = row[f"{clock}_ms"] / 1e3
        row["gflop_per_second"] = facts.gflop / seconds
        if name != MATMUL:
            ratios = [getattr(a, clock) / getattr(b, clock) for a, b in zip(taken, measured.turns[OURS])]
            row["images_per_second"] = facts.images / seconds
            row["ratio"], row["ratio_quartiles"] = statistics.median(ratios), _quartiles(ratios)
        rows[name] = row
    if MATMUL in rows:
        for row in rows.values():
            row["share_of_peak"] = row["gflop_per_second"] / rows[MATMUL]["gflop_per_second"]
    return rows


def _quartiles(values: List[float]) -> List[float]:
    return statistics.quantiles(values, n=4)[::2] if len(values) > 1 else values * 2


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("work", choices=tuple(WORKS))
    parser.add_argument("--contenders", nargs="+", help="ours and which others; default all")
    numbers = {"batch-size": 8, "image-size": 224, "threads": 1, "warm-up": 1, "repeats": 7, "steps-per-turn": 1}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--mode", choices=("train", "inference"), default="train")
    parser.add_argument("--json", type=Path, help="also write settings, machine, versions and results here")
    return parser.parse_args()


def main() -> None:
    """Command line."""
    args = parse_arguments()
    # Set before a contender loads torch: idle threads that spin would take the time of whose turn it is.
    os.environ.update(OMP_NUM_THREADS=str(args.threads), OMP_WAIT_POLICY="passive", POPTORCH_HOST="1")
    os.environ["POPTORCH_HOST_DEVICE"] = args.device
    settings = Settings(**{name: getattr(args, name) for name in Settings._fields})
    names = args.contenders or names_for(settings)
    if OURS not in names:
        sys.exit(f"{OURS} must be among the contenders: the others are held against it")
    try:
        measured = measure(names, settings, args.warm_up, args.repeats, args.steps_per_turn)
    except ContenderFailedError as error:
        sys.exit(str(error))
    clock = clock_of(settings)
    described = {**settings._asdict(), "clock": clock, "repeats": args.repeats, "steps_per_turn": args.steps_per_turn}
    content = {
        "kind": "step",
        "settings": described,
        "machine": machine(),
        "versions": versions(),
        "results": summarise(measured, clock),
    }
    print(step_table(content))
    if args.json:
        args.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
