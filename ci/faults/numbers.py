"""NaN in a loss or a gradient: caught before the update, with the weights as they were, bit for bit."""

from __future__ import annotations

import json
from typing import List

from ci.faults import traces
from ci.faults.apps import App
from ci.faults.bench import Bench, Figure


def not_finite(bench: Bench, app: App) -> List[Figure]:
    """Spoil one number in the command's process; then resume without that and end as undisturbed."""
    figure = Figure("NaN caught before the update")
    divergence = Figure("weight bits that a caught NaN changed", measure=0, unit="bits")
    chance = bench.chance("nan", app)
    passes = 2 * app.steps  # backward passes, at least, of the whole run; in Keras, updates
    for what in ("gradient", "loss") if bench.short else ("gradient", "loss") * 2:
        run, at = bench.new(app), chance.randint(3, passes // 2 if app.environment == "torch" else app.steps - 1)
        run.parent.mkdir(parents=True)
        report = run.with_name("report.json")
        saboteur = {"kind": "nan", "library": app.environment, "what": what, "at": at, "report": str(report)}
        done = bench.run(app, app.whole(bench.data(app), run), saboteur=saboteur)
        found = json.loads(report.read_text()) if report.exists() else {"weights": 0, "changed_bits": 0}
        caught = done.sentence and "not finite" in done.sentence and found["weights"]
        if not figure.count(caught, f"{what} {at}: {found['weights']} weights, {done}"):
            continue
        divergence.count(not found["changed_bits"], f"{what} {at}: {found['changed_bits']} bits changed")
        divergence.measure = (divergence.measure or 0) + found["changed_bits"]
        again = bench.resumed(app, run).wait()
        wrong = str(again) if again.status != 0 else traces.same_end(app, run, bench.whole(app))
        if wrong:
            figure.lost.append(f"resumed after {what} {at}: {wrong}")
    return [figure, divergence]
