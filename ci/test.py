"""The one driver that tests parts of the repository: pytest in the part's own folder, a summary at the end.

As many parts run at once as there are cores, the longest first: a test computes on one core. What a part prints is
shown when it ends, unless it is the only one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Dict, List, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TENSORFLOW = "vit_tensorflow_gaudi"
IPU_APPS = ["vit_pytorch_ipu", "mae_pytorch_ipu", "swin_pytorch_ipu"]
PARTS = [*IPU_APPS, TENSORFLOW, "vit_pytorch_gaudi", "poptorch_host", "remap_custom_op", "common", "ci"]


class Result(NamedTuple):
    """Counts of one part's tests and the seconds they took."""

    passed: int
    failed: int
    skipped: int
    seconds: float


def run(part: str, extra: List[str], quiet: bool) -> Result:
    """Run the tests of `part` with pytest in its folder; a run that ends without counts is one failure.

    `quiet`: print its output at its end.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        python = str(ROOT / ".venv" / "tensorflow" / "bin" / "python") if part == TENSORFLOW else sys.executable
        command = [python, "-m", "pytest", "-q", "-c", str(ROOT / "pyproject.toml"), "--rootdir=."]
        variables = dict(os.environ, PYTHONUNBUFFERED="1", MPLBACKEND="Agg", OMP_NUM_THREADS="1")
        output = subprocess.PIPE if quiet else None
        done = subprocess.run(
            [*command, f"--junit-xml={report}", "tests", *extra],
            cwd=ROOT / part,
            env=variables,
            stdout=output,
            stderr=subprocess.STDOUT if quiet else None,
            text=True,
        )
        if quiet:
            print(f"\n{part}\n{done.stdout}", flush=True)
        suite = ElementTree.parse(report).getroot().find("testsuite") if report.is_file() else None
        count: Dict[str, str] = dict(suite.attrib) if suite is not None else {}
    skipped = int(count.get("skipped", 0))
    failed = int(count.get("failures", 0)) + int(count.get("errors", 0))
    passed = int(count.get("tests", 0)) - failed - skipped
    if done.returncode and not failed:
        failed = 1
    return Result(passed, failed, skipped, time.monotonic() - began)


def main() -> None:
    """Command line: names of parts, then pytest's own arguments after `--`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], default=[], help="default all")
    parser.add_argument("--pytest", nargs=argparse.REMAINDER, default=[], help="arguments for pytest")
    arguments = parser.parse_args()
    parts = sorted(arguments.parts or PARTS, key=PARTS.index)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        running = {part: pool.submit(run, part, arguments.pytest, len(parts) > 1) for part in parts}
    results = {part: future.result() for part, future in running.items()}
    print("\n%-20s %8s %8s %8s %8s" % ("part", "passed", "failed", "skipped", "seconds"))
    for part, result in results.items():
        print("%-20s %8d %8d %8d %8.0f" % (part, *result))
    passed, failed, skipped = (sum(counts) for counts in list(zip(*results.values()))[:3])
    print("%d passed, %d failed, %d skipped" % (passed, failed, skipped), flush=True)
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
