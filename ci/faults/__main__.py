"""Faults made on purpose while the five apps' commands run, and a table of what came of them; exit 1 for a loss.

python -m ci.faults [--short] [--only FAULT …] [--apps APP …] [--json FILE]

A cell is tries without harm / tries, or a number that should be 0. What was lost is told below the table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

from ci.faults import company, damage, disks, hostile, kills, memory, numbers, pictures
from ci.faults.apps import APPS, GAUDI, KERAS, MAE, SWIN, VIT, App
from ci.faults.bench import Bench, BrokenError, Figure, opened

Fault = Callable[[Bench, App], List[Figure]]
FAULTS: Dict[str, Fault] = {
    "kill": kills.killed,
    "terminate": kills.terminated,
    "peer": company.peer_killed,
    "worker": company.worker_killed,
    "second": company.second_run,
    "damage": damage.damaged,
    "nan": numbers.not_finite,
    "full": disks.full,
    "read-only": disks.read_only,
    "weights": hostile.weight_files,
    "data": hostile.data_files,
    "archives": hostile.archives,
    "images": pictures.corrupt,
    "memory": memory.growth,
}
# What a test has time for: one app of each kind, and in the others what is cheap and differs most.
SHORT = {
    VIT: ["kill", "terminate", "damage", "nan", "full", "read-only", "weights", "data", "images", "second", "worker"],
    MAE: ["weights", "images"],
    SWIN: ["data", "archives", "weights"],
    GAUDI: ["nan", "archives", "weights"],
    KERAS: ["images", "archives", "damage"],
}
Job = Tuple[str, App]
Row = Dict[str, Any]


def jobs(arguments: argparse.Namespace) -> List[Job]:
    """What is to be done, the slowest environment first."""
    apps = [APPS[name] for name in reversed(list(APPS)) if name in (arguments.apps or APPS)]
    chosen = [name for name in FAULTS if name in (arguments.only or FAULTS)]
    every = bool(arguments.only) or not arguments.short
    return [(fault, app) for app in apps for fault in chosen if every or fault in SHORT[app.name]]


def run(bench: Bench, job: Job) -> List[Row]:
    """The figures of one job; a job that can't be done is a loss."""
    fault, app = job
    began = time.monotonic()
    try:
        figures = FAULTS[fault](bench, app)
    except Exception as error:  # the other jobs' figures are not lost with it
        reason = str(error) if isinstance(error, BrokenError) else f"{type(error).__name__}: {error}"
        figures = [Figure(f"{fault} could be tried", tried=1, lost=[reason])]
    seconds = round(time.monotonic() - began, 1)
    lost = sum(len(figure.lost) for figure in figures)
    print(f"{app.name:21} {fault:10} {seconds:6.1f} s{'  LOST ' + str(lost) if lost else ''}", flush=True)
    return [{"app": app.name, **vars(figure), "seconds": seconds} for figure in figures if figure.tried]


def cell(rows: List[Row]) -> str:
    """What a column says of a fault."""
    if not rows:
        return "–"
    if rows[0]["measure"] is not None:
        found = f"{max(row['measure'] for row in rows):g} {rows[0]['unit']}"
        return f"{found} LOST" if any(row["lost"] for row in rows) else found
    tried = sum(row["tried"] for row in rows)
    return f"{tried - min(tried, sum(len(row['lost']) for row in rows))}/{tried}"


def table(rows: List[Row]) -> str:
    """Faults down, apps across, and all of them in the last column."""
    apps = [name for name in APPS if any(row["app"] == name for row in rows)]
    lines = [["", *(name.replace("_pytorch", "").replace("_tensorflow", "_keras") for name in apps), "all"]]
    for fault in dict.fromkeys(row["fault"] for row in rows):
        found = [row for row in rows if row["fault"] == fault]
        lines.append([fault, *(cell([row for row in found if row["app"] == name]) for name in apps), cell(found)])
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a minute's worth, with small counts")
    parser.add_argument("--only", nargs="+", choices=FAULTS, metavar="FAULT", help=f"of {', '.join(FAULTS)}")
    parser.add_argument("--apps", nargs="+", choices=APPS, metavar="APP", help=f"of {', '.join(APPS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--seed", type=int, default=0, help="of moments, bits and lengths (default: %(default)s)")
    return parser.parse_args()


def main() -> None:
    """Do the jobs, as many at once as there are cores, and print the table."""
    arguments = parse()
    began = time.monotonic()
    root = Path(tempfile.mkdtemp(prefix="faults-"))
    at_once = 1 if arguments.short else min(4, len(os.sched_getaffinity(0)))
    try:
        with opened(root, arguments.seed, arguments.short) as bench, ThreadPoolExecutor(at_once) as pool:
            rows = [row for found in pool.map(lambda job: run(bench, job), jobs(arguments)) for row in found]
    finally:
        shutil.rmtree(root, ignore_errors=True)
    order = {name: number for number, name in enumerate(APPS)}
    rows.sort(key=lambda row: order[row["app"]])
    seconds = round(time.monotonic() - began)
    print(f"\n{table(rows)}\n\n{seconds} s on {at_once} cores at once, seed {arguments.seed}", flush=True)
    told = [(row, sentence) for row in rows for sentence in dict.fromkeys(row["lost"])]
    lost = [f"lost: {row['app']}, {row['fault']}: {sentence}" for row, sentence in told]
    if arguments.json:
        machine = {"python": platform.python_version(), "system": platform.platform(), "cores": os.cpu_count()}
        content = {"seconds": seconds, "seed": arguments.seed, "machine": machine, "figures": rows}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")
    sys.exit("\n".join(lost) if lost else 0)


if __name__ == "__main__":
    main()
