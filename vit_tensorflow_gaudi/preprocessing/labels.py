"""Classes of validation images that lie in no class folders, from the label files that come with ImageNet."""

from __future__ import annotations

import csv
import io
import tarfile
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from common.labels import DEVKIT, GROUND_TRUTH, KAGGLE_LABELS, SYNSET_LABELS, read_devkit
from errors import UserError


def validation_classes(root: Path, beside: Path, names: Sequence[str]) -> Dict[str, str]:
    """Synset of each image: by synset_labels.txt, Kaggle's CSV or the devkit, the first that lies in a folder.

    All but the CSV have a line per image, in the order of the images' names.

    Args:
        root: the raw data.
        beside: the folder that the validation images' folder lies in.
        names: of all images, sorted.

    Raises:
        UserError: there are no labels, or not one for each image.
    """
    for folder in dict.fromkeys((root, beside)):
        csv_file = folder / KAGGLE_LABELS
        if csv_file.is_file():
            return _from_kaggle(csv_file, names)
        lines = _lines(folder)
        if lines is not None:
            if len(lines) != len(names):
                raise UserError(
                    f"{folder} has {len(lines)} validation labels for {len(names)} images: fetch both again"
                )
            return dict(zip(names, lines))
    raise UserError(f"{root} has no labels of the validation images: add {SYNSET_LABELS[0]} or {DEVKIT}.tar.gz")


def _lines(folder: Path) -> Optional[List[str]]:
    for name in SYNSET_LABELS:
        if (folder / name).is_file():
            return (folder / name).read_text(encoding="utf-8").split()
    for data in (folder, folder / "data", folder / "devkit" / "data", folder / DEVKIT / "data"):
        if (data / GROUND_TRUTH).is_file():
            return _named((data / GROUND_TRUTH).read_text(encoding="ascii"), (data / "meta.mat").read_bytes())
    archive = folder / f"{DEVKIT}.tar.gz"
    if archive.is_file():
        with tarfile.open(archive) as devkit:
            table = devkit.extractfile(f"{DEVKIT}/data/meta.mat")
            assert table is not None
            return _named(read_devkit(archive), table.read())
    return None


def _named(numbers: str, table: bytes) -> List[str]:
    """The devkit's class numbers, which have an order of their own, as synsets by its table meta.mat."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise UserError(f"the devkit's meta.mat needs SciPy: pip install scipy, or add {SYNSET_LABELS[0]}") from None
    rows = loadmat(io.BytesIO(table), squeeze_me=True)["synsets"]
    synsets = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in rows}
    return [synsets[int(number)] for number in numbers.split()]


def _from_kaggle(path: Path, names: Sequence[str]) -> Dict[str, str]:
    with open(path, encoding="utf-8", newline="") as file:
        rows = {row[0]: row[1].split(" ")[0] for row in csv.reader(file) if len(row) > 1}
    missing = [name for name in names if Path(name).stem not in rows]
    if missing:
        raise UserError(f"{path} has no label for {missing[0]} and {len(missing) - 1} more: fetch it again")
    return {name: rows[Path(name).stem] for name in names}
