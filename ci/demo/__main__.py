"""Run all five apps on the digits sample, or those that are named: a live view, a table, and demo/report.html."""

from __future__ import annotations

import argparse
import fcntl
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import List, NoReturn, Sequence

from .apps import APPS, ORDER, ROOT
from .machine import environment
from .page import build
from .results import Result, read_result, table
from .running import AppRun, cores, run_all
from .view import View

FOLDER = ROOT / "demo"


def run(keys: Sequence[str], folder: Path = FOLDER, root: Path = ROOT) -> List[Result]:
    """Run these apps from nothing and read what they wrote; in the order of APPS."""
    began = time.monotonic()
    for key in keys:
        shutil.rmtree(folder / key, ignore_errors=True)
    runs = {key: AppRun(APPS[key], folder / key, root, began) for key in sorted(keys, key=ORDER.index)}
    run_all(list(runs.values()), View().show, cores())
    return [read_result(runs[key], root / APPS[key].folder / "data/digits") for key in APPS if key in keys]


def finish(results: List[Result], seconds: float, folder: Path = FOLDER) -> int:
    """Print the table, write the page, say what failed; the exit status."""
    devices = {result.run.app.title: result.recipe.device for result in results if result.recipe}
    when = time.strftime("%d %B %Y, %H:%M UTC", time.gmtime())
    report = folder / "report.html"
    report.write_text(build(results, environment(devices), seconds, when), encoding="utf-8")
    print(f"\n{table(results)}\n\n{seconds:.0f} s in all; {folder.name}/{report.name} shows what was run and learnt")
    problems = [f"error: {result.run.app.title}: {problem}" for result in results for problem in result.problems]
    print("\n".join(problems), file=sys.stderr, end="\n" if problems else "")
    return 1 if problems else 0


def interrupt(number: int, _: object) -> NoReturn:
    """End as Ctrl-C does, whoever asks for it."""
    raise KeyboardInterrupt(signal.Signals(number).name)


def main() -> int:
    """Command line: names of apps, all by default."""
    parser = argparse.ArgumentParser(prog="ci.demo", description=__doc__)
    parser.add_argument("apps", nargs="*", choices=[[], *APPS], default=[], metavar="APP", help=", ".join(APPS))
    keys = parser.parse_args().apps or list(APPS)
    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup's
        signal.signal(signal.SIGHUP, interrupt)
    FOLDER.mkdir(exist_ok=True)
    began = time.monotonic()
    with open(FOLDER / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("error: another `make demo` is running: wait for it or stop it", file=sys.stderr)
            return 1
        try:
            return finish(run(keys), time.monotonic() - began)
        except KeyboardInterrupt:
            print("\nstopped; what the apps saved lies in demo", file=sys.stderr)
            return 130


if __name__ == "__main__":
    sys.exit(main())
