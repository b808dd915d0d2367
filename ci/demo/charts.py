"""Curves as SVG that takes its colours from the page around it."""

from __future__ import annotations

import io
import re
from typing import Any, List, Mapping, Sequence, Tuple

from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from .results import Record

INK = "#010203"  # stands for the page's text colour, which a reader's light or dark theme decides
COLOURS = ["#3b82f6", "#f97316", "#10b981", "#a855f7"]
STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.12,
    "legend.frameon": False,
}

Curves = Mapping[str, Sequence[Record]]
Points = List[Tuple[float, float]]


def panels(histories: Curves) -> List[Tuple[str, str, Curves]]:
    """(metric, title, its trainings): the loss of each that has no accuracy, then loss and accuracy of the rest."""
    classifying = {name: records for name, records in histories.items() if points(records, "validation", "accuracy")}
    found: List[Tuple[str, str, Curves]] = []
    for name, records in histories.items():
        if records and name not in classifying:
            found.append(("loss", f"{name}: loss", {name: records}))
    if classifying:
        found += [("loss", "loss", classifying), ("accuracy", "accuracy", classifying)]
    return found


def points(records: Sequence[Record], split: str, metric: str) -> Points:
    """(updates, value) of each record that has a value."""
    return [(record["step"], record[metric]) for record in records if split == record["split"] and has(record, metric)]


def has(record: Record, metric: str) -> bool:
    """Whether the value is there and finite; what is not is written as null."""
    return record.get(metric) is not None


def smoothed(values: Points) -> Points:
    """Running mean with exponentially falling weights, of fewer values where there are few in all."""
    share = min(0.85, max(0.0, 1 - 10 / len(values)))
    mean, weight, found = 0.0, 0.0, []
    for step, value in values:
        mean, weight = share * mean + (1 - share) * value, share * weight + (1 - share)
        found.append((step, mean / weight))
    return found


def curves(histories: Curves) -> str:
    """An <svg> of the trainings' curves: batches faint, their running mean as a line, held-out images as dots."""
    drawn = panels(histories)
    if not drawn:
        return ""
    with rc_context(STYLE):
        figure = Figure(figsize=(4.0 * len(drawn), 3.0), layout="constrained")
        FigureCanvasSVG(figure)
        colour = dict(zip(histories, COLOURS))
        for axes, (metric, title, trainings) in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn):
            for name, records in trainings.items():
                draw(axes, records, metric, colour[name])
            finish(axes, metric, title)
            if len(trainings) > 1:
                label(axes, [(name, colour[name]) for name in trainings], metric)
        picture = io.StringIO()
        figure.savefig(picture, format="svg", transparent=True)
    return inline(picture.getvalue(), "Curves: " + ", ".join(title for _, title, _ in drawn))


def draw(axes: Any, records: Sequence[Record], metric: str, colour: str) -> None:
    """One training's batches and evaluations."""
    batches, held_out = points(records, "train", metric), points(records, "validation", metric)
    if batches:
        axes.plot(*zip(*batches), color=colour, alpha=0.22, linewidth=0.8)
        axes.plot(*zip(*smoothed(batches)), color=colour, linewidth=1.6)
    if held_out:
        style = "o--" if len(held_out) > 1 else "o"
        axes.plot(*zip(*held_out), style, color=colour, markersize=5, linewidth=1, markeredgecolor=INK, zorder=3)


def finish(axes: Any, metric: str, title: str) -> None:
    """Scales and words."""
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel("steps")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    if metric == "accuracy":
        axes.set_ylim(top=1.03)
        axes.yaxis.set_major_formatter(lambda value, _: "%.0f %%" % (100 * value))


def label(axes: Any, names: List[Tuple[str, str]], metric: str) -> None:
    """Say which colour is which training, where the curves leave room."""
    lines = [axes.plot([], [], color=colour, label=name)[0] for name, colour in names]
    axes.legend(handles=lines, loc="lower right" if metric == "accuracy" else "upper right", fontsize=9)


def inline(svg: str, about: str) -> str:
    """matplotlib's file as an element of a page: without namespaces and metadata, its ink the page's."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", body)
    body = re.sub(r'<svg (.*?)width="[^"]*"', r"<svg \1", body, count=1).replace(INK, "currentColor")
    body = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", body, count=1)
    return body.replace("<svg", f'<svg role="img" aria-label="{about}"', 1)
