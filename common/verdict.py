"""What a layout check says: problems with their remedies, gathered into a verdict."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Tuple

SPLITS = ("train", "validation")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong (`what`, with the path it concerns) and how to put it right (`remedy`)."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}."


@dataclass(frozen=True)
class Verdict:
    """What a folder was found to hold.

    layout    "folders", "flat", "kaggle", "tfrecord", "archives" or "cifar10"; "" if the path cannot be read
    path      the folder that was checked
    splits    "train" / "validation" -> where that split lies (`val` on disk is "validation" here)
    classes   class names in label order (alphabetical folder order); empty where the layout does not name them
    counts    images per split, as far as they could be counted without reading them
    problems  what must be put right before training
    notes     what is odd but harmless
    """

    layout: str
    path: Path
    splits: Dict[str, Path] = field(default_factory=dict)
    classes: Tuple[str, ...] = ()
    counts: Dict[str, int] = field(default_factory=dict)
    problems: Tuple[Problem, ...] = ()
    notes: Tuple[Problem, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the folder can be used as it is."""
        return not self.problems


class ImageNetLayoutError(ValueError):
    """A folder does not have the layout an app needs; the text is one sentence with the remedy."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict
        first, more = verdict.problems[0], len(verdict.problems) - 1
        text = str(first)
        if more:
            text = f"{text[:-1]} (and {more} more: python -m common.imagenet check {verdict.path})."
        super().__init__(text)

    def __reduce__(self) -> Tuple[type, Tuple[Verdict]]:
        return type(self), (self.verdict,)  # else a worker process could not send it to its parent


class Findings:
    """A verdict in the making; each layout's checker adds to it."""

    def __init__(self, layout: str, path: Path, *, full: bool = False) -> None:
        self.layout = layout
        self.path = path
        self.full = full
        self.splits: Dict[str, Path] = {}
        self.classes: Tuple[str, ...] = ()
        self.counts: Dict[str, int] = {}
        self.problems: List[Problem] = []
        self.notes: List[Problem] = []

    def problem(self, what: str, remedy: str) -> None:
        """Add something that must be put right."""
        self.problems.append(Problem(what, remedy))

    def note(self, what: str, remedy: str) -> None:
        """Add something odd but harmless."""
        self.notes.append(Problem(what, remedy))

    def verdict(self) -> Verdict:
        """The verdict as it stands."""
        return Verdict(
            self.layout, self.path, dict(self.splits), self.classes, dict(self.counts), tuple(self.problems),
            tuple(self.notes),
        )  # fmt: skip


def plural(count: int, noun: str) -> str:
    """`1 image`, `1,281,167 images`, `2 classes`."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{ending}"
