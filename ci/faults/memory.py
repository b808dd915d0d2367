"""Resident memory of a training process, seen from outside, after its first steps and after thousands more."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Dict, List, Tuple

from ci.faults.apps import GAUDI, KERAS, VIT, App
from ci.faults.bench import Bench, Figure

STEPS, SHORT_STEPS, WARM = 10_000, 1_000, 0.2
TOLERATED = 8.0  # MiB: a thousand bytes a step
# A run of {steps} steps of one image, without evaluations and checkpoints on the way. The loop of vit_pytorch_ipu is
# that of all three apps for IPUs.
_CHANGES: Dict[str, Tuple[str, str]] = {
    VIT: ("--micro-batch-size 1 --gradient-accumulation 1 --num-hidden-layers 1 --layers-per-ipu 1 --log-every 50",
          "--training-steps {steps} --evaluate false"),
    GAUDI: ("--train_batch_size 1 --gradient_accumulation_steps 1 --num_hidden_layers 1 --log_every 50",
            "--num_steps {steps} --eval_every 0"),
    KERAS: ("--batch_size 1 --grad_accum_steps 1 --log_every 50",
            "--epochs 1 --steps_per_epoch {steps} --validation_steps 0"),
}  # fmt: skip


def growth(bench: Bench, app: App) -> List[Figure]:
    """Train for ten thousand steps and compare the memory at a fifth of them with that at the end.

    On Python 3.11 TensorFlow 2.15 never frees 48 bytes of a tensor that Python saw (its issue 62551; all on 3.10).
    The Keras app makes seven such tensors an update, whatever its model: 2.6 MiB here, within what is tolerated.
    """
    steps = SHORT_STEPS if bench.short else STEPS
    figure = Figure(f"memory growth over {steps:,} steps", measure=0, unit="MiB")
    if app.name not in _CHANGES:
        return [figure]
    run = bench.new(app)
    command = bench.start(app, _words(bench, app, run, steps))
    seen: Dict[int, float] = {}
    while command.running():
        time.sleep(0.25)
        resident = _resident(command.process)
        if resident:
            seen[command.step()] = resident
    done = command.wait()
    # After the last step there are curves to draw and a checkpoint to write, which is no growth of the loop.
    warm = [seen[step] for step in sorted(seen) if WARM * steps <= step < 0.99 * steps]
    if not figure.count(done.status == 0 and len(warm) > 1, f"{len(warm)} readings, {done}"):
        return [figure]
    figure.measure = round(max(0.0, max(warm[-3:]) - min(warm[:3])), 1)
    if figure.measure > TOLERATED:
        figure.lost.append(f"{figure.measure} MiB more than after {WARM:.0%} of the steps")
    return [figure]


def _resident(process: int) -> float:
    """MiB, 0 where the process has ended."""
    try:
        match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    except OSError:
        return 0.0
    return int(match[1]) / 1024 if match else 0.0


def _words(bench: Bench, app: App, run: Path, steps: int) -> List[str]:
    changed, added = _CHANGES[app.name]
    words = app.train(bench.data(app), run)
    for flag, value in zip(changed.split()[::2], changed.split()[1::2]):
        words[words.index(flag) + 1] = value
    words += added.format(steps=steps).split()
    return [*words, app.workers, "0"] if app.workers else words
