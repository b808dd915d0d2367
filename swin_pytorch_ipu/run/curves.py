"""Picture of a run's curves."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .files import write_atomically

_FIRST = ("loss", "accuracy", "learning_rate", "lr", "throughput")
_TITLES = {"lr": "learning rate", "throughput": "throughput (samples/s)"}
_NOT_METRICS = {"step", "split", "time", "samples"}  # samples: how many were evaluated, always the same
_SMOOTH_FROM = 100  # points from which noise hides the trend
_EXACT = {"learning_rate", "lr", "loss_scale"}
_POWERS_OF_TWO = {"loss_scale"}


def draw(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw every metric of history records over the steps, a panel each and a line per split, into a PNG.

    Long lines are also drawn smoothed; points that are not finite are gaps.
    """
    metrics = _by_metric(records)
    columns = 1 if len(metrics) == 1 else 2
    rows = math.ceil(len(metrics) / columns)
    figure = Figure(figsize=(6.0 * columns, 3.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel, (metric, lines) in zip(panels, metrics.items()):
        for split, points in lines.items():
            _draw_line(panel, split, points, smooth=metric not in _EXACT and len(points) >= _SMOOTH_FROM)
        panel.set_title(_TITLES.get(metric, metric.replace("_", " ")))
        panel.set_xlabel("step")
        if metric in _POWERS_OF_TWO:
            panel.set_yscale("log", base=2)
        panel.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        panel.grid(alpha=0.3)
        if len(lines) > 1:
            panel.legend()
    for panel in panels[len(metrics) :]:
        panel.set_visible(False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    write_atomically(Path(path), picture.getvalue())


def _by_metric(records: Sequence[Mapping[str, Any]]) -> Dict[str, Dict[str, List[Tuple[int, float]]]]:
    """Metric → split → points, the usual metrics first."""
    found: Dict[str, Dict[str, List[Tuple[int, float]]]] = {}
    for record in records:
        for name, value in record.items():
            if name not in _NOT_METRICS:
                found.setdefault(name, {}).setdefault(record["split"], []).append((record["step"], value))
    order = [name for name in _FIRST if name in found] + sorted(name for name in found if name not in _FIRST)
    return {name: found[name] for name in order}


def _draw_line(panel: Any, split: str, points: Sequence[Tuple[int, float]], *, smooth: bool) -> None:
    steps, values = np.array([step for step, _ in points]), np.array([value for _, value in points], dtype=float)
    if not smooth:
        panel.plot(steps, values, label=split, marker="o" if len(points) < 30 else None, markersize=3)
        return
    (line,) = panel.plot(steps, values, alpha=0.25, linewidth=0.8)
    panel.plot(steps, _smooth(values), label=split, color=line.get_color())


def _smooth(values: np.ndarray) -> np.ndarray:
    """Mean over a window of a fortieth of the line around each point, of the finite values in it."""
    half = max(1, len(values) // 80)
    finite = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    low, high = np.maximum(np.arange(len(values)) - half, 0), np.minimum(np.arange(len(values)) + half + 1, len(values))
    inside = counts[high] - counts[low]
    return np.where(inside > 0, (sums[high] - sums[low]) / np.maximum(inside, 1), np.nan)
