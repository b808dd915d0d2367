"""Reads what the apps wrote: recipe.json or config.json, history.jsonl, validation.json, predictions.json."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np

from .running import AppRun

AGREE = 0.01  # largest difference of top-1 between an app's validation and its predict.py

Record = Dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """Size of a training: numbers of the model's parameters, updates, and images of an update; the device, if said."""

    parameters: int
    updates: int
    batch: int
    device: str


@dataclass(frozen=True)
class Prediction:
    """The file of a held-out image, its class, the likeliest class and that one's probability."""

    image: Path
    truth: str
    answer: str
    probability: float


@dataclass(frozen=True)
class Score:
    """On the held-out images; the loss is the mean."""

    top1: float
    loss: float
    samples: int


@dataclass(frozen=True)
class Result:
    """What came out of an app's steps; None or empty where a step failed.

    Attributes:
        run: the steps.
        histories: records of each training, by its folder's name.
        recipes: of each training.
        score: of the classifier.
        baseline: what its training came to without what came before it.
        predictions: of the classifier.
        images: for training.
        throughput: images/s of the median step of the classifier's training.
    """

    run: AppRun
    histories: Dict[str, List[Record]]
    recipes: Dict[str, Recipe]
    score: Optional[Score]
    baseline: Optional[Score]
    predictions: List[Prediction]
    images: int
    throughput: Optional[float]

    @property
    def recipe(self) -> Optional[Recipe]:
        """Of the classifier's training."""
        return self.recipes.get(self.run.app.classifier)

    @property
    def problems(self) -> List[str]:
        """Why the demo fails on this app: sentences, none if all is well."""
        app, found = self.run.app, []
        if self.run.failed:
            last = self.run.done[-1]
            found.append(f"{last.step.name} ended with {last.status}: see {self.run.log(last.step)}")
        elif not self.score or not self.predictions:
            found.append(f"the {'accuracy' if not self.score else 'predictions'} cannot be found in {self.run.folder}")
        elif self.score.top1 < app.least:
            found.append("top-1 of %.2f %% is below %.0f %%" % (100 * self.score.top1, 100 * app.least))
        elif abs(right(self.predictions) / len(self.predictions) - self.score.top1) > AGREE:
            said = 100 * right(self.predictions) / len(self.predictions)
            found.append("predict.py comes to %.2f %%, the validation to %.2f %%" % (said, 100 * self.score.top1))
        return found


def read_result(run: AppRun, data: Path) -> Result:
    """Everything about an app's run; `data` is the folder with the sample's train and validation."""
    app, histories, recipes = run.app, {}, {}
    for training in app.runs:
        histories[training.folder] = read_history(run.folder / training.folder / "history.jsonl")
        recipe = read_recipe(run.folder / training.folder)
        if recipe:
            recipes[training.folder] = recipe
    history = histories[app.classifier]
    rates = [record["throughput"] for record in history if record.get("throughput")]
    return Result(
        run,
        histories,
        recipes,
        read_score(run.folder / app.score / "validation.json") if app.score else best(history),
        best(histories[app.baseline]) if app.baseline else None,
        read_predictions(run.folder / "predictions.json", data),
        len(list((data / "train").rglob("*.JPEG"))),
        statistics.median(rates) if rates else None,
    )


def read_history(path: Path) -> List[Record]:
    """Records in the order of writing; half a line at the end is left out."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def best(history: List[Record]) -> Optional[Score]:
    """The evaluation with the highest accuracy, the earliest of equals."""
    measured = [record for record in history if record["split"] == "validation" and record.get("accuracy") is not None]
    found = max(measured, key=lambda record: float(record["accuracy"]), default=None)
    return Score(found["accuracy"], found["loss"], round(found["samples"])) if found else None


def read_score(path: Path) -> Optional[Score]:
    """What the app's validation wrote."""
    content = json.loads(path.read_text()) if path.exists() else None
    return Score(content["top1"], content["loss"], content["samples"]) if content else None


def read_recipe(folder: Path) -> Optional[Recipe]:
    """Of a torch app's run folder from recipe.json, of the Keras app's from its options and weights."""
    if (folder / "recipe.json").exists():
        content = json.loads((folder / "recipe.json").read_text())
        shared = content.get("batch", {})
        batch = content.get("global_batch") or shared["micro"] * shared["accumulation"] * shared["cards"]
        return Recipe(content["parameters"], content.get("updates", content["steps"]), batch, content["device"])
    if not (folder / "config.json").exists() or not (folder / "weights.npz").exists():
        return None
    options = json.loads((folder / "config.json").read_text())["options"]
    with np.load(folder / "weights.npz") as weights:
        parameters = sum(weights[name].size for name in weights.files)
    updates = options["epochs"] * -(-options["steps_per_epoch"] // options["grad_accum_steps"])
    return Recipe(parameters, updates, options["batch_size"] * options["grad_accum_steps"], "")


def read_predictions(path: Path, data: Path) -> List[Prediction]:
    """What predict.py --json printed about images in folders that are named after their class."""
    content = json.loads(path.read_text() or "{}") if path.exists() else {}
    found = []
    for record in content.get("predictions", []):
        image, likeliest = Path(record["image"]), (record.get("top5") or record["top"])[0]
        place = data / "validation" / image.parent.name / image.name
        found.append(Prediction(place, image.parent.name, likeliest["name"], likeliest["probability"]))
    return found


def right(predictions: List[Prediction]) -> int:
    """How many are."""
    return sum(one.answer == one.truth for one in predictions)


def confusion(predictions: List[Prediction]) -> Dict[str, Dict[str, int]]:
    """True class → predicted class → number of images; every class in both, in order."""
    names = sorted({one.truth for one in predictions} | {one.answer for one in predictions})
    counts = {truth: dict.fromkeys(names, 0) for truth in names}
    for one in predictions:
        counts[one.truth][one.answer] += 1
    return counts


COLUMNS = ["app", "model", "parameters", "data", "updates", "top-1", "seconds", "CPU s", "images/s", ""]


def row(result: Result) -> List[str]:
    """The table's cells for an app, as COLUMNS names them."""
    app, recipe, score = result.run.app, result.recipe, result.score
    held_out = f" + {score.samples:,}" if score else ""
    return [
        app.folder,
        app.title,
        f"{recipe.parameters:,}" if recipe else "–",
        f"{result.images:,}{held_out} digits",
        f"{recipe.updates:,} × {recipe.batch}" if recipe else "–",
        "%.2f %%" % (100 * score.top1) if score else "–",
        "%.0f" % result.run.seconds,
        "%.0f" % sum(done.cpu for done in result.run.done),
        f"{result.throughput:,.0f}" if result.throughput else "–",
        "failed" if result.problems else "passed",
    ]


def notes(result: Result) -> List[str]:
    """What else there is to say of an app: how well it reconstructs, and what pretraining is worth."""
    found = []
    for training in result.run.app.runs:
        evaluated = [record for record in result.histories[training.folder] if record["split"] == "validation"]
        if evaluated and "accuracy" not in evaluated[-1]:
            found.append(
                "%s reaches a loss of %.3f on held-out digits" % (training.name.capitalize(), evaluated[-1]["loss"])
            )
    if result.baseline and result.score:
        both = (100 * result.score.top1, 100 * result.baseline.top1)
        found.append("the classifier %.1f %% with pretraining, %.1f %% without" % both)
    return found


def table(results: List[Result]) -> str:
    """All rows for a terminal: words to the left, numbers to the right."""
    rows = [COLUMNS, *map(row, results)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    left = {0, 1, 3, len(COLUMNS) - 1}
    cells = [
        [cell.ljust(width) if i in left else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths))]
        for line in rows
    ]
    lines = ["  ".join(line).rstrip() for line in cells]
    remarks = [f"{result.run.app.title}: {note}" for result in results for note in notes(result)]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:], *([""] if remarks else []), *remarks])
