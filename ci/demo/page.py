"""Builds demo/report.html: one file with all its pictures, which loads nothing."""

from __future__ import annotations

import base64
import mimetypes
from pathlib import Path
from typing import Any, Dict, List, Mapping

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .charts import curves
from .results import COLUMNS, Prediction, Result, confusion, notes, right, row

HERE = Path(__file__).resolve().parent
SHOWN = 6  # pictures of a kind
MISTAKES = 12
LOG = 12  # lines of a failed step's log


def build(results: List[Result], environment: Mapping[str, str], seconds: float, when: str) -> str:
    """The page.

    Args:
        results: of the apps, in the order to show.
        environment: label → text.
        seconds: that everything took.
        when: it ran, as text.
    """
    templates = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return templates.get_template("page.html").render(
        style=Markup((HERE / "page.css").read_text()),
        columns=COLUMNS,
        apps=[section(result) for result in results],
        failed=sum(bool(result.problems) for result in results),
        environment=environment,
        seconds=seconds,
        cpu=sum(done.cpu for result in results for done in result.run.done),
        when=when,
    )


def section(result: Result) -> Dict[str, Any]:
    """What the template shows of an app."""
    app, counts = result.run.app, confusion(result.predictions)
    names = {training.folder: training.name for training in app.runs}
    return {
        "app": app,
        "row": row(result),
        "notes": notes(result),
        "problems": result.problems,
        "score": result.score,
        "done": result.run.done,
        "failure": tail(result.run.log(result.run.done[-1].step)) if result.run.failed else "",
        "curves": Markup(curves({names[folder]: records for folder, records in result.histories.items()})),
        "confusion": counts,
        "short": shortened(list(counts)),
        "right": right(result.predictions),
        "of": len(result.predictions),
        "mistakes": mistakes(result.predictions),
        "pictures": [
            {"title": kind.title, "about": kind.about, "images": pictures(result.run.folder / kind.folder)}
            for kind in app.pictures
        ],
    }


def data_uri(path: Path) -> str:
    """A file as text that stands where an address would."""
    kind = mimetypes.guess_type(path.name.lower())[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def pictures(folder: Path) -> List[Dict[str, str]]:
    """The first pictures below a folder, by name."""
    found = sorted(folder.rglob("*.png"), key=lambda path: path.name)[:SHOWN]
    return [{"source": data_uri(path), "name": f"{path.parent.name}/{path.name}"} for path in found]


def mistakes(predictions: List[Prediction]) -> List[Dict[str, Any]]:
    """The surest wrong answers first, as far as their images are there."""
    wrong = [one for one in predictions if one.answer != one.truth and one.image.exists()]
    wrong = sorted(wrong, key=lambda one: -one.probability)[:MISTAKES]
    return [{"source": data_uri(one.image), **vars(one)} for one in wrong]


def shortened(names: List[str]) -> Dict[str, str]:
    """Class names without what all of them begin with, up to its last underscore: digit_3 is 3."""
    heads = {name.rpartition("_")[0] for name in names}
    return {name: name.rpartition("_")[2] if len(heads) == 1 else name for name in names}


def tail(log: Path) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG:]) if log.exists() else ""
