"""What a run stands on: the weights that it starts from and the classes that it learns."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Sequence

from .errors import UsageError


def keep_weights(weights: str, run: Path, flag: str = "--output") -> None:
    """Refuse to empty a run folder that holds the weights to start from.

    Args:
        weights: what the option names; empty or none starts from random ones.
        run: folder that --overwrite would empty.
        flag: what gives another run folder, for the message.

    Raises:
        UsageError: it does.
    """
    if weights not in ("", "none") and _lies_in_run(Path(weights), run):
        raise UsageError(f"--overwrite would remove {weights}, the weights to start from: give another {flag}")


def describe_classes(classes: Sequence[str]) -> str:
    """Class names and their order, which make labels, in a few words that differ for others."""
    digest = hashlib.blake2b("\n".join(classes).encode(errors="surrogateescape"), digest_size=3).hexdigest()
    return f"{len(classes)} from {classes[0]} to {classes[-1]}, digest {digest}"


def _lies_in_run(weights: Path, run: Path) -> bool:
    """Whether weights are the checkpoints of a run folder, or one of them."""
    if not weights.exists() and (weights.name in ("latest", "best") or weights.name.startswith("step-")):
        weights = weights.parent  # RUN/latest means one in RUN/checkpoints
    weights, checkpoints = weights.resolve(), run.resolve() / "checkpoints"
    return checkpoints.is_dir() and (weights == run.resolve() or checkpoints in (weights, *weights.parents))
