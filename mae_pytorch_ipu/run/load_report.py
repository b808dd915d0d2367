"""What a loader of weights did, for the user to read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence, Tuple


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did, in names of the model's tensors; of the file's where the model has no such tensor.

    `resized` and `reinitialised` ones are not as in the file, `missing` ones as in the model before, `unexpected` ones
    left out. `notes` are sentences on what else may change the outputs a little.
    """

    source: str
    source_layout: str
    loaded: Tuple[str, ...]
    resized: Tuple[str, ...] = ()
    reinitialised: Tuple[str, ...] = ()
    missing: Tuple[str, ...] = ()
    unexpected: Tuple[str, ...] = ()
    notes: Tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors from {self.source} ({self.source_layout} layout)"]
        for label in ("resized", "reinitialised", "missing", "unexpected"):
            names: Tuple[str, ...] = getattr(self, label)
            if names:
                parts.append(f"{label} {some(names)}")
        return "; ".join([*parts, *self.notes])


def some(names: Sequence[str]) -> str:
    """The first three names and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
