"""SIGKILL at random moments of training and of saving; SIGTERM, after which nothing may be lost."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import List

from ci.faults import traces
from ci.faults.apps import KERAS, App
from ci.faults.bench import Bench, BrokenError, Figure


def killed(bench: Bench, app: App) -> List[Figure]:
    """Kill the run while it writes a checkpoint, just after it has, and at random moments, and resume it each time.

    A kill has survived if the run that had it ended, without a complaint, in the undisturbed run's weights and history.
    """
    wanted = {True: 2, False: 8 if app.name == KERAS else 20}[bench.short]
    figure, divergence = (
        Figure("SIGKILL, resumed"),
        Figure("bits of the resumed run that differ", measure=0, unit="bits"),
    )
    inside = Figure("… of which inside saving")
    whole = bench.whole(app)
    for _ in range(10 * wanted):  # a run may end before its kill
        if figure.tried >= wanted:
            break
        run = bench.new(app)
        kills, saving = _campaign(bench, app, run, wanted - figure.tried)
        done = bench.resumed(app, run).wait()
        wrong = str(done) if done.status != 0 else traces.same_end(app, run, whole)
        figure.tried += kills
        inside.tried += saving
        figure.lost += [f"after {kills} kills: {wrong}"] * (kills if wrong else 0)
        inside.lost += [f"after {saving} kills: {wrong}"] * (saving if wrong else 0)
        if done.status == 0:
            bits = traces.differing_bits(app, run, whole)
            divergence.count(not bits, f"after {kills} kills: {bits} bits")
            divergence.measure = (divergence.measure or 0) + bits
    if figure.tried < wanted:
        raise BrokenError(f"only {figure.tried} of {wanted} kills came before the end of their run")
    return [figure, inside, divergence]


def _campaign(bench: Bench, app: App, run: Path, limit: int) -> tuple[int, int]:
    """Kill one run up to `limit` times before its end; how often that was done, and how often inside saving."""
    chance, kills, saving = bench.chance(f"kill {run.parent.name}", app), 0, 0
    for attempt in range(limit):
        before = len(traces.checkpoints(run)) and max(traces.checkpoints(run))
        if before >= app.steps - 3:
            break
        aim = before + chance.randint(1, 3)  # far enough to get on, not far enough to be done soon
        command = bench.resumed(app, run)
        command.wait_until(lambda: command.step() >= aim)  # noqa: B023
        earlier, finished = traces.unfinished(run), traces.checkpoints(run)
        if attempt % 3 == 0:
            command.wait_until(lambda: traces.unfinished(run) - earlier, pause=0.0005)  # noqa: B023
            time.sleep(chance.random() * 0.004)
        elif attempt % 3 == 1:
            command.wait_until(lambda: traces.checkpoints(run) != finished, pause=0.0005)  # noqa: B023
        else:
            time.sleep(chance.random() * 0.05)
        if command.kill():
            kills += 1
            saving += bool(traces.unfinished(run) - earlier)
    return kills, saving


def terminated(bench: Bench, app: App) -> List[Figure]:
    """SIGTERM: exit 75, the step finished and saved, and the resumed run the same as the undisturbed one."""
    figure = Figure("SIGTERM: saved, exit 75, resumed")
    lost = Figure("steps lost at SIGTERM", measure=0, unit="steps")
    chance = bench.chance("term", app)
    for _ in range(1 if bench.short else 3):
        run = bench.new(app)
        command = bench.resumed(app, run)
        aim = chance.randint(1, app.steps // 2)  # early enough for the signal to come before the end
        command.wait_until(lambda: command.step() >= aim)  # noqa: B023
        command.signal(signal.SIGTERM)
        done = command.wait()
        if not figure.count(done.status == 75, f"SIGTERM at step {aim}: {done}"):
            continue
        steps = traces.steps_done(run) - max(traces.checkpoints(run), default=0)
        lost.count(steps == 0, f"{steps} steps of {traces.steps_done(run)} are in no checkpoint")
        lost.measure = (lost.measure or 0) + steps
        again = bench.resumed(app, run).wait()
        wrong = str(again) if again.status != 0 else traces.same_end(app, run, bench.whole(app))
        if wrong:
            figure.lost.append(f"resumed after SIGTERM at step {aim}: {wrong}")
    return [figure, lost]
