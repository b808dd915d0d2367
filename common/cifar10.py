"""CIFAR-10's and CIFAR-100's Python batches, read without trusting them.

The files are pickles, and a pickle may name any function for the reader to call. Here the three names that a
CIFAR batch needs are answered with inert stand-ins and every other name is refused, so nothing in the file runs.
Format: https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np

from common.verdict import Findings, plural

FOLDER = "cifar-10-batches-py"
BATCHES = {"train": tuple(f"data_batch_{k}" for k in range(1, 6)), "validation": ("test_batch",)}
META = "batches.meta"
IMAGE_BYTES = 3 * 32 * 32
CIFAR_COUNTS = {"train": 50_000, "validation": 10_000}
CIFAR100_FOLDER = "cifar-100-python"
CIFAR100_FILES = {"train": "train", "validation": "test", "classes": "meta"}


class _DType:
    """Stands for numpy.dtype: keeps what the file says, interprets nothing."""

    def __init__(self, spec: object = b"", *_: object) -> None:
        self.is_bytes = spec in (b"u1", "u1")

    def __setstate__(self, state: object) -> None:
        """Byte order and padding: nothing to keep for single bytes."""


class _Array:
    """Stands for numpy.ndarray until `array` has checked it."""

    state: object = ()

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        self.state = state

    def array(self) -> np.ndarray:
        """The (rows, columns) uint8 array; ValueError if the file describes anything else."""
        state = self.state
        if not (isinstance(state, tuple) and len(state) == 5):
            raise ValueError("its data is not an array")
        _, shape, dtype, by_columns, raw = state
        if not (isinstance(shape, tuple) and len(shape) == 2 and all(type(n) is int and n >= 0 for n in shape)):
            raise ValueError("its data is not a two-dimensional array")
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        if not (isinstance(dtype, _DType) and dtype.is_bytes and isinstance(raw, bytes)):
            raise ValueError("its data is not made of bytes")
        return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if by_columns else "C")


class _CifarUnpickler(pickle.Unpickler):
    """Knows the names a CIFAR batch needs and refuses all others."""

    _KNOWN = {
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _DType,
    }

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for `module.name`."""
        if (module, name) not in self._KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR file needs")
        return self._KNOWN[module, name]


def read_pickle(path: Path) -> Dict[str, object]:
    """The dictionary in one CIFAR file, keys as text. ValueError, with the reason, if it is not one."""
    try:
        with open(path, "rb") as file:
            content = _CifarUnpickler(file, encoding="bytes").load()
    except OSError:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError("it does not hold a dictionary")
    return {_text(key): value for key, value in content.items()}


def _text(value: object) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _images_and_labels(path: Path, key: str = "labels") -> Tuple[np.ndarray, np.ndarray]:
    batch = read_pickle(path)
    data, labels = batch.get("data"), batch.get(key)
    if not isinstance(data, _Array) or not isinstance(labels, list):
        raise ValueError(f"it lacks data or {key}")
    images = data.array()
    if images.shape != (len(labels), IMAGE_BYTES):
        raise ValueError(f"its data is {images.shape} for {plural(len(labels), 'label')} of {IMAGE_BYTES} bytes each")
    if not all(type(label) is int and label >= 0 for label in labels):
        raise ValueError("a label is not a class number")
    return images, np.array(labels, np.int64)


def _class_names(path: Path, key: str = "label_names") -> List[str]:
    names = read_pickle(path).get(key)
    if not isinstance(names, list) or not names:
        raise ValueError(f"it lacks {key}")
    return [_text(name) for name in names]


def find_batches(root: Path) -> Path:
    """The folder of batches: `root/cifar-10-batches-py`, or `root` itself if it has that role."""
    return root if (root / BATCHES["train"][0]).is_file() or (root / META).is_file() else root / FOLDER


def read_cifar10(root: Path, split: str) -> Tuple[np.ndarray, np.ndarray, List[str]]:
    """Images (N, 32, 32, 3) uint8, labels (N,) int64 and class names of `split` ("train" or "validation").

    `root` as in torchvision: the folder that holds cifar-10-batches-py. OSError or ValueError if it cannot be read.
    """
    folder = find_batches(Path(root))
    parts = [_images_and_labels(folder / name) for name in BATCHES[split]]
    images = np.concatenate([images for images, _ in parts])
    labels = np.concatenate([labels for _, labels in parts])
    return _pixels_last(images), labels, _class_names(folder / META)


def find_cifar100(root: Path) -> Path:
    """The folder of CIFAR-100's files: `root/cifar-100-python`, or `root` itself if it has that role."""
    return root if (root / CIFAR100_FILES["classes"]).is_file() else root / CIFAR100_FOLDER


def read_cifar100(root: Path, split: str) -> Tuple[np.ndarray, np.ndarray, List[str]]:
    """As `read_cifar10`, from CIFAR-100's files: the 100 fine labels and their names.

    OSError or ValueError, with the file's name, if it cannot be read or labels are not among the names.
    """
    folder = find_cifar100(Path(root))
    path = folder / CIFAR100_FILES["classes"]
    try:
        names = _class_names(path, "fine_label_names")
        path = folder / CIFAR100_FILES[split]
        images, labels = _images_and_labels(path, "fine_labels")
        if not len(labels) or labels.max() >= len(names):
            raise ValueError(f"its labels are none, or not among {plural(len(names), 'class')}")
    except ValueError as error:
        raise ValueError(f"{path} cannot be used ({error})") from error
    return _pixels_last(images), labels, names


def _pixels_last(images: np.ndarray) -> np.ndarray:
    """(N, 3 * 32 * 32), planes first as CIFAR stores them -> (N, 32, 32, 3)."""
    return images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).copy()


def check_cifar10(findings: Findings, root: Path, splits: Sequence[str]) -> None:
    """Check that all batches are there and hold what CIFAR-10's do; with `full` also their 50,000 and 10,000 images."""
    folder = find_batches(root)
    if not folder.is_dir():
        nested = next((path.parent for path in sorted(root.glob(f"*/{FOLDER}"))), None)
        fetch = "" if (root / "cifar-10-python.tar.gz").is_file() else "fetch and "
        remedy = f"pass {nested}, which has one" if nested else f"{fetch}unpack cifar-10-python.tar.gz there"
        findings.problem(f"{root} has no {FOLDER} folder", remedy)
        return
    try:
        findings.classes = tuple(_class_names(folder / META))
    except (OSError, ValueError) as error:
        _explain(findings, folder / META, error)
    for split in splits:
        findings.splits[split] = folder
        findings.counts[split] = sum(_check_batch(findings, folder / name) for name in BATCHES[split])
        count, expected = findings.counts[split], CIFAR_COUNTS[split]
        if findings.full and count != expected:
            findings.problem(
                f"{folder} has {plural(count, f'{split} image')}, not CIFAR-10's {expected:,}",
                "unpack cifar-10-python.tar.gz again",
            )


def _check_batch(findings: Findings, path: Path) -> int:
    try:
        images, labels = _images_and_labels(path)
    except (OSError, ValueError) as error:
        _explain(findings, path, error)
        return 0
    if not len(labels):
        findings.problem(f"{path} has no images", "unpack cifar-10-python.tar.gz again")
    elif findings.classes and labels.max() >= len(findings.classes):
        findings.problem(
            f"{path} has label {labels.max()}, but {META} names {plural(len(findings.classes), 'class')}",
            "unpack cifar-10-python.tar.gz again",
        )
    return len(images)


def _explain(findings: Findings, path: Path, error: Exception) -> None:
    what = f"{path} is missing" if isinstance(error, FileNotFoundError) else f"{path} cannot be used ({error})"
    findings.problem(what, "unpack cifar-10-python.tar.gz again")


def python2_pickle(content: Dict[str, object]) -> bytes:
    """`content` as Python 2 pickled the original files: text of one byte per character, arrays by numpy's own names.

    Readers ask for encoding "latin1" (torchvision) or "bytes" (the CIFAR page), and Python 3's pickle.dumps
    satisfies only one of them. Knows what the format needs: text, int, list, uint8 matrices.
    """
    out = b"}" + b"".join(_item(key) + _item(value) + b"s" for key, value in content.items())
    return b"\x80\x02" + out + b"."


def _item(value: object) -> bytes:
    if isinstance(value, str):
        text = value.encode("latin1")
        return b"T" + struct.pack("<i", len(text)) + text
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, list):
        return b"](" + b"".join(_item(item) for item in value) + b"e"
    assert isinstance(value, np.ndarray), type(value)
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + _item(0) + b"\x85" + _item("b") + b"\x87R"
    shape = _item(value.shape[0]) + _item(value.shape[1]) + b"\x86"
    dtype = b"cnumpy\ndtype\n" + _item("u1") + b"\x89\x88\x87R"
    order = b"(" + _item(3) + _item("|") + b"NNN" + _item(-1) + _item(-1) + _item(0) + b"tb"
    raw = value.tobytes().decode("latin1")
    return empty + b"(" + _item(1) + shape + dtype + order + b"\x89" + _item(raw) + b"tb"
