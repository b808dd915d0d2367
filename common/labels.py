"""Labels that lie beside the images: of flat validation folders, and class-index files."""

from __future__ import annotations

import csv
import io
import json
import re
import tarfile
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

from common.listing import Listing
from common.verdict import Findings, plural

DEVKIT = "ILSVRC2012_devkit_t12"
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
SYNSET_LABELS = ("synset_labels.txt", "imagenet_2012_validation_synset_labels.txt")
KAGGLE_LABELS = "LOC_val_solution.csv"
CLASS_INDEX = (
    "imagenet_class_index.json", "class_index.json", "class_to_idx.json", "classes.txt", "synsets.txt",
    "synset_words.txt", "LOC_synset_mapping.txt",
)  # fmt: skip

_NUMBER = re.compile(r"(\d+)\.\w+$")


def check_flat_labels(
    findings: Findings, folder: Path, images: Sequence[str], train: Optional[Listing], labels_at: Sequence[Path]
) -> None:
    """Check that every image of the flat `folder` has a label in a file of one of the folders `labels_at`."""
    source = next(_label_sources(labels_at), None)
    if source is None:
        findings.problem(
            f"{folder} has {plural(len(images), 'image')} in no class folders and no labels beside it",
            f"add {SYNSET_LABELS[0]} or {DEVKIT}.tar.gz to {labels_at[0]}, or sort the images into class folders",
        )
        return
    path, text = source
    if path.name == KAGGLE_LABELS:
        labels = _kaggle_labels(findings, path, text, images)
    else:
        labels = text.split()
        _check_lines(findings, path, labels, folder, images)
    if path.name == GROUND_TRUTH or path.suffix == ".gz":
        check_ground_truth(findings, path, labels)
    elif train is not None:
        unknown = sorted(set(labels) - set(train.classes))
        if unknown:
            findings.problem(
                f"{path} names {plural(len(unknown), 'class')} that the train folder lacks, first {unknown[0]}",
                "unpack the training archive completely",
            )


def _label_sources(folders: Sequence[Path]) -> Iterator[Tuple[Path, str]]:
    for folder in folders:
        for name in (*SYNSET_LABELS, KAGGLE_LABELS):
            if (folder / name).is_file():
                yield folder / name, (folder / name).read_text(encoding="utf-8", errors="replace")
        for devkit in (folder, folder / "data", folder / "devkit" / "data", folder / DEVKIT / "data"):
            if (devkit / GROUND_TRUTH).is_file():
                yield devkit / GROUND_TRUTH, (devkit / GROUND_TRUTH).read_text(encoding="utf-8", errors="replace")
        if (folder / f"{DEVKIT}.tar.gz").is_file():
            yield folder / f"{DEVKIT}.tar.gz", read_devkit(folder / f"{DEVKIT}.tar.gz")


def read_devkit(archive: Path) -> str:
    """The validation ground truth in the devkit's `archive`, one number per line; "" if it cannot be read."""
    try:
        with tarfile.open(archive) as devkit:
            member = devkit.extractfile(f"{DEVKIT}/data/{GROUND_TRUTH}")
            return member.read().decode("ascii", "replace") if member else ""
    except (OSError, EOFError, KeyError, tarfile.TarError):
        return ""


def _check_lines(findings: Findings, path: Path, labels: List[str], folder: Path, images: Sequence[str]) -> None:
    """Line k labels the k-th image in sorted order, so one image too few would shift all that follow."""
    if len(labels) != len(images):
        findings.problem(
            f"{path} has {plural(len(labels), 'label')} for the {plural(len(images), 'image')} of {folder}",
            "unpack the validation archive and its labels again",
        )
    numbers = [match and int(match[1]) for match in (_NUMBER.search(name) for name in sorted(images))]
    gap = next((k for k, number in enumerate(numbers, start=1) if number != k), None)
    if gap is not None and None not in numbers:
        findings.problem(f"{folder} lacks validation image {gap}", "unpack the validation archive again")


def check_ground_truth(findings: Findings, path: Path, labels: Sequence[str]) -> None:
    """The devkit's labels are ILSVRC2012_IDs from 1, in an order of their own that only meta.mat explains."""
    if not labels or not all(label.isdigit() and int(label) > 0 for label in labels):
        findings.problem(f"{path} does not give one class number per line", "fetch the devkit again")
    if path.name == GROUND_TRUTH and not (path.parent / "meta.mat").is_file():
        findings.problem(
            f"{path} numbers classes in the devkit's own order, and {path.parent} lacks meta.mat, which names them",
            f"copy meta.mat from {DEVKIT}.tar.gz to it",
        )


def _kaggle_labels(findings: Findings, path: Path, text: str, images: Sequence[str]) -> List[str]:
    rows = {row[0]: row[1].split(" ")[0] for row in csv.reader(io.StringIO(text)) if len(row) > 1}
    unlabelled = sorted(name for name in images if Path(name).stem not in rows)
    if unlabelled:
        findings.problem(
            f"{path} has no label for {plural(len(unlabelled), 'image')}, first {unlabelled[0]}",
            f"fetch {KAGGLE_LABELS} again",
        )
    return [rows[Path(name).stem] for name in images if Path(name).stem in rows]


def check_class_index(findings: Findings, folders: Sequence[Path]) -> None:
    """Compare class-index files in `folders` with alphabetical folder order, which is what apps number classes by."""
    for path in (folder / name for folder in folders for name in CLASS_INDEX):
        if not path.is_file():
            continue
        try:
            listed = _read_class_index(path)
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            findings.problem(f"{path} cannot be read as a class list ({error})", "mend or remove it")
            continue
        clash = [(a, b) for a, b in zip(listed, findings.classes) if a != b]
        if sorted(listed) != sorted(findings.classes):
            findings.note(f"{path} lists other classes than the folders", "remove it if it belongs to other data")
        elif clash:
            findings.problem(
                f"{path} gives {clash[0][0]} the number that alphabetical folder order gives {clash[0][1]}",
                "sort it by folder name, or rename the folders so that both orders agree",
            )


def _read_class_index(path: Path) -> List[str]:
    """Class folder names by number, from `{"0": ["n01440764", "tench"]}`, `{"n01440764": 0}` or lines."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".json":
        return [line.split()[0] for line in text.splitlines() if line.strip()]
    content = json.loads(text)
    if isinstance(content, list):
        return [str(name) for name in content]
    numbers: Dict[int, str] = {}
    for key, value in content.items():
        if isinstance(value, int):
            numbers[value] = key
        else:
            numbers[int(key)] = str(value[0] if isinstance(value, list) else value)
    return [numbers[k] for k in sorted(numbers)]
