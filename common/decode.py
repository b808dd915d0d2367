"""Decode every image of a data set on all cores, to find the bad ones before a run does."""

from __future__ import annotations

import io
import os
import warnings
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Iterator, List, NamedTuple, Optional, Tuple

from PIL import Image
from tqdm import tqdm

from common.cifar10 import find_batches
from common.listing import IMAGE_SUFFIXES, image_files
from common.shards import find_shards, list_archive, record_spans
from common.verdict import Findings

FORMATS = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".ppm": "PPM", ".pgm": "PPM", ".bmp": "BMP", ".tif": "TIFF",
    ".tiff": "TIFF", ".webp": "WEBP",
}  # fmt: skip
PLAIN_MODES = ("RGB", "L", "P", "RGBA", "1", "LA")


class Unit(NamedTuple):
    """A piece of work for one process: an image, or a file of images, at `offset` in `path`."""

    path: str
    kind: str  # "image", "tar" or "tfrecord"
    name: str  # what to call it in the report
    offset: int = 0
    size: int = -1


class Oddity(NamedTuple):
    """An image that is not a plain one: `bad` if it cannot be decoded, otherwise only unusual."""

    name: str
    reason: str
    bad: bool


def decode_all(findings: Findings, workers: Optional[int] = None, *, progress: bool = True) -> None:
    """Decode all images of the splits in `findings`; undecodable ones become problems, unusual ones notes."""
    units = [unit for split in findings.splits for unit in _units(findings, split)]
    workers = workers or len(os.sched_getaffinity(0))
    try:
        # Not fork: the caller may have threads.
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            results = pool.map(examine, units, chunksize=max(1, min(64, len(units) // (4 * workers))))
            hidden = None if progress else True  # None: shown on a terminal only
            progressing = tqdm(results, "decode", len(units), unit="file", disable=hidden)
            oddities = [oddity for some in progressing for oddity in some]
    except BrokenProcessPool:
        findings.problem("a decoding process was killed, perhaps for want of memory", "try again with fewer --workers")
        return
    for name, reason, bad in oddities:
        if bad:
            findings.problem(f"{name} cannot be decoded ({reason})", "fetch or unpack it again, or remove it")
        else:
            findings.note(f"{name} is {reason}", "loaders that convert to RGB cope")


def _units(findings: Findings, split: str) -> Iterator[Unit]:
    where = findings.splits[split]
    if findings.layout == "tfrecord":
        for path in find_shards(findings.path, split).values():
            yield Unit(str(path), "tfrecord", str(path))
    elif findings.layout == "archives":
        for name, (offset, size) in list_archive(where)[0].items():
            yield Unit(str(where), "tar" if split == "train" else "image", f"{where}/{name}", offset, size)
    elif where != find_batches(findings.path):
        for name in image_files(where):
            yield Unit(name, "image", name)


def examine(unit: Unit) -> List[Oddity]:
    """Decode what `unit` holds and return the images that are not plain ones."""
    oddities = []
    try:
        for name, data in _images(unit):
            oddity = _examine_image(name, data, is_example=unit.kind == "tfrecord")
            if oddity:
                oddities.append(oddity)
    except (OSError, ValueError) as error:
        oddities.append(Oddity(unit.name, _reason(error), True))
    return oddities


def _images(unit: Unit) -> Iterator[Tuple[str, bytes]]:
    if unit.kind == "image":
        yield unit.name, _read(unit.path, unit.offset, unit.size)
    elif unit.kind == "tar":
        members, complete = list_archive(Path(unit.path), unit.offset, unit.size)
        for name, (offset, size) in members.items():
            yield f"{unit.name}/{name}", _read(unit.path, offset, size)
        if not complete:
            raise ValueError("the archive is cut short")
    else:
        for number, (offset, size) in enumerate(record_spans(Path(unit.path))):
            yield f"{unit.name} record {number}", _read(unit.path, offset, size)


def _read(path: str, offset: int, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(size)


def _examine_image(name: str, data: bytes, *, is_example: bool) -> Optional[Oddity]:
    try:
        if is_example:
            data = encoded_image(data)
        if not data:
            return Oddity(name, "it has no bytes", True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on metadata
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                found, mode = image.format, image.mode
    except Exception as error:  # PIL's decoders raise OSError, SyntaxError, struct.error and more
        return Oddity(name, _reason(error), True)
    suffix = os.path.splitext(name)[1].lower()
    if suffix in IMAGE_SUFFIXES and found != FORMATS[suffix]:
        return Oddity(name, f"a {found} file by content", False)
    return None if mode in PLAIN_MODES else Oddity(name, f"a {mode} image", False)


def _reason(error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return "not an image file" if "cannot identify" in text else text


def encoded_image(example: bytes) -> bytes:
    """The bytes of `image/encoded` in a serialised tf.train.Example; ValueError if there are none.

    Example{1: Features{1: map entry {1: key, 2: Feature{1: BytesList{1: value}}}}}, see tensorflow/core/example.
    """
    for entry in _fields(example, 1, 1):
        if list(_fields(entry, 1)) == [b"image/encoded"]:
            return next(_fields(entry, 2, 1, 1), b"")
    raise ValueError("a record has no image/encoded")


def _fields(message: bytes, wanted: int, *deeper: int) -> Iterator[bytes]:
    """Payloads of the length-delimited fields `wanted` of a protocol buffer message, or of fields `deeper` in them."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        wire = tag & 7
        if wire == 0:
            _, at = _varint(message, at)
            continue
        if wire not in (1, 2, 5):
            raise ValueError("a record is not a tf.train.Example")
        size = 8 if wire == 1 else 4
        if wire == 2:
            size, at = _varint(message, at)
        if wire == 2 and tag >> 3 == wanted:
            payload = message[at : at + size]
            yield from _fields(payload, *deeper) if deeper else (payload,)
        at += size


def _varint(message: bytes, at: int) -> Tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message):
            raise ValueError("a record is not a tf.train.Example")
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
