"""Where a data set's train and validation folders are, or why they are not there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import List, Optional, Sequence

from common.listing import entry_kind
from common.verdict import Findings

SPLIT_NAMES = {"train": ("train",), "validation": ("validation", "val")}
MISNAMED = {
    "train": ("training", "trainset", "train_images", "ilsvrc2012_img_train"),
    "validation": ("valid", "validate", "val_images", "valset", "dev", "test", "ilsvrc2012_img_val"),
}


def find_split(base: Path, split: str) -> Optional[Path]:
    """The folder of `split` below `base`, or None."""
    return next((base / name for name in SPLIT_NAMES[split] if (base / name).is_dir()), None)


def explain_missing(findings: Findings, base: Path, split: str, splits: Sequence[str]) -> bool:
    """Say why `split` is not there; True if that explains all the other splits as well."""
    missing = f"{base} has no {' or '.join(SPLIT_NAMES[split])} folder"
    names = _subfolders(base)
    wrong = next((name for name in names if name.lower() in MISNAMED[split] + SPLIT_NAMES[split]), None)
    if wrong is not None and _subfolders(base / wrong):  # Kaggle's test has no classes
        findings.problem(f"{missing}, but {wrong}", f"rename {wrong} to {split}")
        return False
    broken = next((base / name for name in SPLIT_NAMES[split] if (base / name).is_symlink()), None)
    if broken is not None:
        findings.problem(f"{broken} is a link to {os.readlink(broken)}, which is not there", "mend the link")
        return False
    if any(find_split(base, other) for other in splits):
        findings.problem(missing, f"put it beside {find_split(base, other_split(split))}, one folder per class")
        return False
    nested = find_dataset(base, splits) or find_dataset(base, [split])
    if nested is not None:
        findings.problem(missing, f"{nested} has one, pass that path instead")
    elif any(_holds_images(base / name) for name in names[:5]):
        in_split = base.name.lower() in SPLIT_NAMES["train"] + SPLIT_NAMES["validation"]
        where = f"pass its parent {base.parent}" if in_split else f"move them into {base / split}"
        findings.problem(f"{missing}, its subfolders are classes themselves", where)
    else:
        findings.problem(missing, f"put one folder per class into {base / split}")
    return True


def other_split(split: str) -> str:
    """The split that goes with `split`."""
    return "validation" if split == "train" else "train"


def _subfolders(folder: Path) -> List[str]:
    try:
        with os.scandir(folder) as entries:
            kinds = [(entry.name, entry_kind(entry)) for _, entry in zip(range(2000), entries)]
    except OSError:
        return []
    return sorted(name for name, kind in kinds if kind == "folder" and not name.startswith("."))


def _holds_images(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(entry_kind(entry) == "images" for _, entry in zip(range(50), entries))
    except OSError:
        return False


def find_dataset(base: Path, splits: Sequence[str], levels: int = 3) -> Optional[Path]:
    """The nearest folder below `base` that has all `splits`; None if there is none within `levels`."""
    layer = [base]
    for _ in range(levels):
        # Bounded, because the path may be a disk's root.
        layer = [path / name for path in layer[:50] for name in _subfolders(path)[:50]]
        for path in layer:
            if all(find_split(path, split) for split in splits):
                return path
    return None
