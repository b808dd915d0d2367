"""Picture of a run's curves."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from files import write_atomically

_FIRST = ("loss", "accuracy", "top5", "learning_rate", "gradient_norm", "throughput")
_NOT_METRICS = {"step", "split", "time", "samples"}


def draw(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw every metric of history records over the updates, a panel each and a line per split, into a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes a second to load
    from matplotlib.figure import Figure

    metrics = _by_metric(records)
    columns = min(2, len(metrics)) or 1
    rows = math.ceil(len(metrics) / columns) or 1
    figure = Figure(figsize=(6.0 * columns, 3.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel, (metric, lines) in zip(panels, metrics.items()):
        for split, points in lines.items():
            steps, values = zip(*points)
            panel.plot(steps, values, label=split, marker="o" if len(points) < 30 else None, markersize=3)
        panel.set_title(metric.replace("_", " "))
        panel.set_xlabel("update")
        panel.grid(alpha=0.3)
        if len(lines) > 1:
            panel.legend()
    for panel in panels[len(metrics) :]:
        panel.set_visible(False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    write_atomically(path, picture.getvalue())


def _by_metric(records: Sequence[Mapping[str, Any]]) -> Dict[str, Dict[str, List[Tuple[int, float]]]]:
    """Metric → split → points, the usual metrics first."""
    found: Dict[str, Dict[str, List[Tuple[int, float]]]] = {}
    for record in records:
        for name, value in record.items():
            if name not in _NOT_METRICS and value is not None:
                found.setdefault(name, {}).setdefault(record["split"], []).append((record["step"], value))
    order = [name for name in _FIRST if name in found] + sorted(name for name in found if name not in _FIRST)
    return {name: found[name] for name in order}
