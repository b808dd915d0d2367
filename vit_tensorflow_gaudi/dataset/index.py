"""Where every image of a subset lies: shard, offset, size and label, in compact arrays.

TFRecord files can only be read from front to back. An index of their record headers, made once and kept beside the
shards, gives any record in one read: so the order of a run is a true permutation of the whole set, the same for any
number of workers, and a run resumes at any step without reading what came before.
"""

from __future__ import annotations

import mmap
import re
import zipfile
from pathlib import Path
from typing import Callable, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
from tqdm import tqdm

from common.shards import record_spans
from dataset.examples import locate
from errors import UserError
from files import write_atomically

_NUMBERED = re.compile(r"-(\d{5})-of-(\d{5})$")
Run = Callable[..., Iterator[Tuple[np.ndarray, str]]]
_ENTRY = np.dtype([("shard", "<i4"), ("offset", "<i8"), ("size", "<i4"), ("label", "<i4")])  # 20 bytes per image


class Index(NamedTuple):
    """The images of a subset: `entries` has shard number, offset and size of the encoded image, label from 0."""

    files: List[Path]
    entries: np.ndarray

    def name(self, number: int) -> str:
        """What a message calls image `number`."""
        shard = int(self.entries["shard"][number])
        first = int(np.searchsorted(self.entries["shard"], shard))
        return f"{self.files[shard].name} record {number - first}"


def find_files(folder: Path, subset: str) -> List[Path]:
    """The shards `folder/subset-*`, in order.

    Raises:
        UserError: there are none, or some are missing.
    """
    pattern = folder / subset
    where = pattern.parent
    found = sorted(where.glob(f"{pattern.name}-*")) if where.is_dir() else []
    if not found:
        raise UserError(
            f"{folder} has no shards like {subset}-00000-of-01024: "
            "make them with preprocess_imagenet.py, or correct the path"
        )
    numbered = [match for match in (_NUMBERED.search(path.name) for path in found) if match]
    totals = {int(match[2]) for match in numbered}
    if len(totals) > 1:
        raise UserError(f"{where} mixes shards of {min(totals)} and of {max(totals)}: remove those that are not meant")
    missing = sorted(set(range(max(totals, default=0))) - {int(match[1]) for match in numbered})
    if missing:
        raise UserError(
            f"{where} lacks {len(missing)} of {max(totals)} shards, first number {missing[0]}: "
            "run preprocess_imagenet.py again to complete them"
        )
    return found


def open_index(folder: Path, subset: str, run: Run = map) -> Index:
    """The index of `folder/subset-*`: that kept beside the shards if they have not changed since, else a new one.

    A new one is kept where the folder can be written. `run`, like `map`, may share out the scanning.

    Raises:
        UserError: shards are missing, damaged, or hold records without image or label.
    """
    files = find_files(folder, subset)
    cache = files[0].parent / f"{Path(subset).name}.index.npz"
    state = np.array([(path.stat().st_size, path.stat().st_mtime_ns) for path in files], "<i8")
    names = np.array([path.name for path in files])
    entries = _read(cache, names, state)
    if entries is None:
        entries = _scan_all(files, run)
        _write(cache, names, state, entries)
    return Index(files, entries)


def _read(cache: Path, names: np.ndarray, state: np.ndarray) -> Optional[np.ndarray]:
    try:
        with np.load(cache, allow_pickle=False) as kept:
            same = np.array_equal(kept["names"], names) and np.array_equal(kept["state"], state)
            entries = kept["entries"] if same else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return entries if entries is not None and entries.dtype == _ENTRY else None


def _write(cache: Path, names: np.ndarray, state: np.ndarray, entries: np.ndarray) -> None:
    try:
        write_atomically(cache, lambda file: np.savez(file, names=names, state=state, entries=entries))
    except OSError as error:  # a read-only data set is scanned by every run
        print(f"The index of the shards cannot be kept in {cache} ({error.strerror}); every start scans them anew.")


def _scan_all(files: List[Path], run: Run) -> np.ndarray:
    parts = []
    for number, (part, problem) in enumerate(tqdm(run(scan, files), "index", len(files), unit="shard", disable=None)):
        if problem:
            raise UserError(problem)
        part["shard"] = number
        parts.append(part)
    return np.concatenate(parts)


def scan(path: Path) -> Tuple[np.ndarray, str]:
    """Entries of one shard, and what is wrong with it ("" if nothing is). Of a record only the headers are read."""
    rows: List[Tuple[int, int, int, int]] = []
    try:
        if not path.stat().st_size:
            raise ValueError("empty")
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            content.madvise(mmap.MADV_RANDOM)
            for start, size in record_spans(path):
                found = locate(content, start, start + size)
                if found.offset is None:
                    raise ValueError(f"record {len(rows)} has no image/encoded")
                if found.label is None:
                    raise ValueError(f"record {len(rows)} has no image/class/label")
                if not 1 <= found.label < 2**31:
                    raise ValueError(f"record {len(rows)} has label {found.label}, labels count from 1")
                rows.append((0, found.offset, found.size, found.label - 1))
    except (OSError, ValueError) as error:
        return np.empty(0, _ENTRY), f"shard {path} is damaged ({error}): make it again with preprocess_imagenet.py"
    return np.array(rows, _ENTRY), ""
