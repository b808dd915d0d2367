"""`dataset_info.json` beside the shards, and what a run needs to know of a data set before it builds a model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Optional, Tuple, Union

from dataset.index import Index, open_index
from errors import UserError
from files import write_atomically

FILE = "dataset_info.json"


@dataclass(frozen=True)
class DatasetInfo:
    """Samples of both subsets; `class_names` by label, numbers from 1 where the shards come without names."""

    train_samples: int
    validation_samples: int
    num_classes: int
    class_names: Tuple[str, ...]


def dataset_info(
    folder: Union[str, Path],
    *,
    train_subset: Optional[str] = "train/train",
    val_subset: Optional[str] = "validation/validation",
) -> DatasetInfo:
    """What is in the shards below `folder`; scans their headers unless an index is kept there.

    A subset that is None need not be there and counts as none.

    Raises:
        UserError: shards are missing, damaged or incomplete, or hold labels that the data set does not have.
    """
    folder = Path(folder)
    entries = [open_subset(folder, subset).entries if subset else None for subset in (train_subset, val_subset)]
    names = class_names(folder)
    if names is None:
        highest = max(int(some["label"].max()) for some in entries if some is not None)
        names = tuple(str(number + 1) for number in range(highest + 1))
    train, validation = (0 if some is None else len(some) for some in entries)
    return DatasetInfo(train, validation, len(names), names)


def open_subset(folder: Path, subset: str) -> Index:
    """The index of `folder/subset-*`, checked against the data set's classes and the completeness of its making."""
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: correct the path, or make shards there with preprocess_imagenet.py")
    made = read(folder).get("splits", {}).get(Path(subset).parent.name, {})
    if made and not made.get("complete"):
        raise UserError(f"The shards in {folder / subset} are not complete: run preprocess_imagenet.py again to go on")
    index = open_index(folder, subset)
    names = class_names(folder)
    if not len(index.entries):
        raise UserError(f"{folder / subset} has no images: make the shards again with preprocess_imagenet.py")
    worst = int(index.entries["label"].argmax())
    label = int(index.entries["label"][worst]) + 1
    if names is not None and label > len(names):
        raise UserError(
            f"{index.name(worst)} has label {label}, but {folder / FILE} names {len(names)} classes: "
            "make the shards again"
        )
    return index


def class_names(folder: Path) -> Optional[Tuple[str, ...]]:
    """Class names by label, None where nobody wrote them down."""
    names = read(folder).get("classes")
    return None if names is None else tuple(names)


def read(folder: Path) -> Dict[str, Any]:
    """The content of `dataset_info.json`; {} where there is none."""
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValueError as error:
        raise UserError(f"{folder / FILE} cannot be read ({error}): restore it or make the shards again") from None
    return dict(content)


def write(folder: Path, content: Dict[str, Any]) -> None:
    """Replace `dataset_info.json`."""
    write_atomically(folder / FILE, json.dumps(content, indent=1) + "\n")
