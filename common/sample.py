"""A small real data set in every layout: scikit-learn's digits, 1,797 scans of 8 x 8 pixels in 10 classes.

With it every app runs and is tested on real images, with nothing to download. The class folders are called
digit_0 to digit_9: alphabetical order is the digits' own, a prediction reads well, and nobody takes the names for
WordNet synsets, which they are not. For the same size, seed and library versions the bytes are the same.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Callable, Dict, Iterable, List, NamedTuple, Tuple

import numpy as np
from PIL import Image

from common.cifar10 import BATCHES, FOLDER, META, python2_pickle
from common.labels import DEVKIT, GROUND_TRUTH, SYNSET_LABELS
from common.shards import ARCHIVES

CLASSES = tuple(f"digit_{k}" for k in range(10))
MARKER = "sample.json"
VALIDATION_SHARE = 0.2
# The devkit's class numbers are not in alphabetical order; here too, so that who mistakes them for labels sees it.
DEVKIT_IDS = {name: 1 + (3 * k + 7) % 10 for k, name in enumerate(CLASSES)}


class SampleError(ValueError):
    """The sample cannot be written; the text is one sentence with the remedy."""


class Picture(NamedTuple):
    """One scan of a digit, by its number in scikit-learn's order."""

    number: int
    label: int
    pixels: np.ndarray  # (8, 8) uint8, ink white


def write_sample(path: Path, *, format: str = "folders", size: int = 32, seed: int = 0) -> List[Path]:
    """Write the sample below `path` and return the data set folders; what is already there and whole is left alone.

    format   "folders" (train/ and validation/), "cifar10" (cifar-10-batches-py/, 32 x 32 always), "archives"
             (ILSVRC 2012's tar files and devkit), or "all": the three in `path`/imagenet1k, /cifar10 and /archives
    size     pixels per side of the JPEG files, 8 to 1024
    seed     of the stratified split into 1,437 training and 360 validation images

    SampleError if `path` holds something else or scikit-learn is missing.
    """
    if not 8 <= size <= 1024:
        raise SampleError(f"A size of {size} pixels is out of range: choose 8 to 1024.")
    targets = {name: path / SUBFOLDERS[name] for name in WRITERS} if format == "all" else {format: path}
    for name, target in targets.items():
        _write(target, WRITERS[name], {"sample": "scikit-learn digits", "format": name, "size": size, "seed": seed})
    return list(targets.values())


def _write(target: Path, writer: Writer, settings: Dict[str, object]) -> None:
    if _is_there(target, settings):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp"))
    try:
        os.chmod(temporary, 0o755)
        splits = load_digits(int(str(settings["seed"])))
        writer(temporary, splits, int(str(settings["size"])))
        marker = json.dumps({**settings, "sha256": _digest(temporary)}, indent=1)
        (temporary / MARKER).write_text(marker + "\n", encoding="utf-8")
        try:
            os.rename(temporary, target)
        except OSError:  # somebody else has written it meanwhile
            if not _is_there(target, settings):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_there(target: Path, settings: Dict[str, object]) -> bool:
    """Whether `target` already is this very sample; SampleError if it is anything else but empty."""
    if not os.path.lexists(target):
        return False
    if target.is_dir() and not any(target.iterdir()):
        return False
    try:
        marker = json.loads((target / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise SampleError(f"{target} holds something else: choose another folder, or remove it.") from None
    if {key: marker.get(key) for key in settings} != settings:
        raise SampleError(f"{target} holds a sample made with other settings: choose another folder, or remove it.")
    if marker.get("sha256") != _digest(target):
        raise SampleError(f"The sample in {target} was changed: remove it, or choose another folder.")
    return True


def _digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of all files in `folder` but the marker."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MARKER):
        total.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


Splits = Dict[str, List[Picture]]
Writer = Callable[[Path, Splits, int], None]


def load_digits(seed: int = 0) -> Splits:
    """The scans, split 80 to 20 within each class."""
    try:
        from sklearn.datasets import load_digits as load
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise SampleError("The sample is made from scikit-learn's digits: pip install scikit-learn.") from error
    digits = load()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)  # 17 grey levels
    numbers = train_test_split(
        np.arange(len(pixels)), test_size=VALIDATION_SHARE, stratify=digits.target, random_state=seed
    )
    return {
        split: [Picture(int(n), int(digits.target[n]), pixels[n]) for n in chosen]
        for split, chosen in zip(("train", "validation"), numbers)
    }


def enlarge(pixels: np.ndarray, size: int) -> Image.Image:
    """(8, 8) uint8 -> RGB image of `size` x `size`."""
    return Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC).convert("RGB")


def _jpeg(picture: Picture, size: int) -> bytes:
    out = io.BytesIO()
    enlarge(picture.pixels, size).save(out, "JPEG", quality=95)
    return out.getvalue()


def _named(split: str, pictures: Iterable[Picture]) -> List[Tuple[str, Picture]]:
    """File names as in ILSVRC 2012: by class and number for training, numbered from 1 for validation."""
    if split == "train":
        ordered = sorted(pictures, key=lambda picture: (picture.label, picture.number))
        return [(f"{CLASSES[picture.label]}_{picture.number}.JPEG", picture) for picture in ordered]
    return [(f"ILSVRC2012_val_{k:08d}.JPEG", picture) for k, picture in enumerate(pictures, start=1)]


def _write_folders(folder: Path, splits: Splits, size: int) -> None:
    for split, pictures in splits.items():
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True)
        for name, picture in _named(split, pictures):
            (folder / split / CLASSES[picture.label] / name).write_bytes(_jpeg(picture, size))


def _write_archives(folder: Path, splits: Splits, size: int) -> None:
    classes: Dict[str, Dict[str, bytes]] = {name: {} for name in CLASSES}
    for name, picture in _named("train", splits["train"]):
        classes[CLASSES[picture.label]][name] = _jpeg(picture, size)
    inner = {f"{name}.tar": _tar(images) for name, images in classes.items()}
    (folder / ARCHIVES["train"]).write_bytes(_tar(inner))
    validation = _named("validation", splits["validation"])
    (folder / ARCHIVES["validation"]).write_bytes(_tar({name: _jpeg(pic, size) for name, pic in validation}))
    labels = [CLASSES[picture.label] for _, picture in validation]
    (folder / SYNSET_LABELS[0]).write_text("".join(f"{label}\n" for label in labels), encoding="ascii")
    truth = "".join(f"{DEVKIT_IDS[label]}\n" for label in labels).encode("ascii")
    counts = {name: len(images) for name, images in classes.items()}
    devkit = _tar({f"{DEVKIT}/data/meta.mat": _meta_mat(counts), f"{DEVKIT}/data/{GROUND_TRUTH}": truth})
    (folder / f"{DEVKIT}.tar.gz").write_bytes(gzip.compress(devkit, mtime=0))


def _tar(members: Dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)  # no owner, and the epoch for a time
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def _meta_mat(counts: Dict[str, int]) -> bytes:
    """The devkit's table of classes in its own order, fields as in the original."""
    from scipy.io import savemat  # scikit-learn brings it

    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height",
              "num_train_images")  # fmt: skip
    rows = []
    for name, number in sorted(DEVKIT_IDS.items(), key=lambda item: item[1]):
        digit = name.split("_")[1]
        rows.append((number, name, f"{digit}, digit {digit}", "a handwritten digit", 0, np.zeros(0), 0, counts[name]))
    table = np.array(rows, dtype=[(field, object) for field in fields])
    out = io.BytesIO()
    savemat(out, {"synsets": table.reshape(-1, 1)})
    header = b"MATLAB 5.0 MAT-file".ljust(116)  # savemat puts the date there
    return header + out.getvalue()[len(header) :]


def _write_cifar10(folder: Path, splits: Splits, _size: int) -> None:
    target = folder / FOLDER
    target.mkdir()
    parts = np.array_split(np.arange(len(splits["train"])), len(BATCHES["train"]))
    for k, (name, part) in enumerate(zip(BATCHES["train"], parts), start=1):
        pictures = [splits["train"][n] for n in part]
        (target / name).write_bytes(_cifar_batch(f"training batch {k} of 5", "train", pictures))
    test = _cifar_batch("testing batch 1 of 1", "validation", splits["validation"])
    (target / BATCHES["validation"][0]).write_bytes(test)
    meta = {"num_cases_per_batch": len(parts[0]), "label_names": list(CLASSES), "num_vis": 3072}
    (target / META).write_bytes(python2_pickle(meta))


def _cifar_batch(title: str, split: str, pictures: List[Picture]) -> bytes:
    # (32, 32, 3) -> 3072 bytes, planes first
    rows = [np.asarray(enlarge(picture.pixels, 32)).transpose(2, 0, 1).reshape(-1) for picture in pictures]
    names = [name.replace(".JPEG", ".png") for name, _ in _named(split, pictures)]
    labels = [picture.label for picture in pictures]
    return python2_pickle({"batch_label": title, "labels": labels, "data": np.stack(rows), "filenames": names})


WRITERS: Dict[str, Writer] = {"folders": _write_folders, "cifar10": _write_cifar10, "archives": _write_archives}
SUBFOLDERS = {"folders": "imagenet1k", "cifar10": "cifar10", "archives": "archives"}  # as the apps' configs name them
