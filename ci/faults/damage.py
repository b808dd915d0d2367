"""Flipped bits and cut ends of every file of a checkpoint: found, and an older intact checkpoint taken instead."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import List, Tuple

from ci.faults import traces
from ci.faults.apps import KERAS, App
from ci.faults.bench import Bench, BrokenError, Figure


def damaged(bench: Bench, app: App) -> List[Figure]:
    """Damage each file of the newest checkpoint in many ways and let the app look for the newest intact one.

    The app's own reader is called for each damage, in one process, which is quicker than a command for each; then one
    file of each kind is damaged and the training command resumes the run.
    """
    run = bench.new(app)
    shutil.copytree(bench.whole(app), run)
    chance = bench.chance("damage", app)
    flips, cuts = Figure("bit flips of checkpoint files found"), Figure("cut checkpoint files found")
    steps = list(traces.checkpoints(run))
    files = traces.newest_files(app, run)
    plan = [(str(path), *_damage(path, kind, chance)) for path in files for kind in _kinds(bench, app, path)]
    plan += [(str(path), -1, 0) for path in _pointers(run)]
    report = run.with_name("report.json")
    orders = run.with_name("orders.json")
    orders.write_text(json.dumps(plan))
    done = bench.run(app, ["-m", "ci.faults.reading", run, orders, report])
    if done.status != 0:
        raise BrokenError(f"the reader of checkpoints can't be called: {done}")
    for (name, bit, size), found in zip(plan, json.loads(report.read_text())):
        path = Path(name)
        pointer = path in _pointers(run)
        expected = steps[-1] if pointer else steps[-2]  # which file is the newest is not decided by the pointers
        how = f"bit {bit} of {path.name}" if bit >= 0 else f"{path.name} cut to {size} bytes"
        (flips if bit >= 0 else cuts).count(str(expected) in found.split("-"), f"{how}: {found}")
    return [flips, cuts, _commands(bench, app, files, run)]


def _kinds(bench: Bench, app: App, path: Path) -> List[str]:
    """More of it where bytes are many or a format of its own protects them."""
    flips = 4 if bench.short else 40
    if path.suffix == ".safetensors" or app.name == KERAS:
        flips *= 5
    return ["flip"] * flips + ["cut"] * (2 if bench.short else 10)


def _damage(path: Path, kind: str, chance: random.Random) -> Tuple[int, int]:
    """(bit, -1) or (-1, size)."""
    size = path.stat().st_size
    return (chance.randrange(8 * size), -1) if kind == "flip" else (-1, chance.randrange(size))


def _pointers(run: Path) -> List[Path]:
    """Files that name a checkpoint."""
    return [path for path in (run / "checkpoints").iterdir() if path.name in ("latest.json", "best.json", "checkpoint")]


def _commands(bench: Bench, app: App, files: List[Path], original: Path) -> Figure:
    """The training command resumes runs in whose newest checkpoint a bit was flipped, and ends as undisturbed."""
    figure, chance = Figure("damaged runs resumed from an older checkpoint"), bench.chance("resume", app)
    large = [path for path in files if path.suffix == ".safetensors" or ".data-" in path.name]
    for path in large[:1] if bench.short else [*large[:1], *[path for path in files if path not in large][:2]]:
        run = bench.new(app)
        shutil.copytree(bench.whole(app), run)
        victim = run / path.relative_to(original)
        content = bytearray(victim.read_bytes())
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        victim.write_bytes(content)
        done = bench.resumed(app, run).wait()
        said = "skipping checkpoint" in done.output + done.error
        wrong = str(done) if done.status != 0 or not said else traces.same_end(app, run, bench.whole(app))
        figure.count(not wrong, f"{path.name}: {wrong}")
    return figure
