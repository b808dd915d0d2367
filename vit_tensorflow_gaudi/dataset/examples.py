"""Where the image and the label of a serialised tf.train.Example lie, without copying or parsing the rest.

Example{1: Features{1: map entry{1: key, 2: Feature{1: BytesList | 2: FloatList | 3: Int64List}}}}, each list {1: value}
(tensorflow/core/example/example.proto and feature.proto; the wire format is protobuf.dev's "Encoding").
"""

from __future__ import annotations

import mmap
from typing import Dict, Iterator, NamedTuple, Optional, Tuple, Union

Buffer = Union[bytes, mmap.mmap]
IMAGE, LABEL = b"image/encoded", b"image/class/label"


class Located(NamedTuple):
    """`image/encoded` as a span of the buffer and the value of `image/class/label`, None where one is missing."""

    offset: Optional[int]
    size: int
    label: Optional[int]


def locate(buffer: Buffer, start: int, stop: int) -> Located:
    """Find image and label of the Example in `buffer[start:stop]`; ValueError if it is not one."""
    offset, size, label = None, 0, None
    for key, begin, end in _features(buffer, start, stop):
        kind, begin, end = next(_fields(buffer, begin, end), (0, 0, 0))  # the list
        wanted = {1: IMAGE, 3: LABEL}.get(kind)
        if key != wanted:
            continue
        for _, first, last in _fields(buffer, begin, end):
            if wanted == IMAGE:
                offset, size = first, last - first
            elif last > first:
                label = _signed(_varint(buffer, first, last)[0])
            break
    return Located(offset, size, label)


def _features(buffer: Buffer, start: int, stop: int) -> Iterator[Tuple[bytes, int, int]]:
    """Key and Feature span of each of the Example's features that matter here."""
    for _, begin, end in _fields(buffer, start, stop):
        for _, first, last in _fields(buffer, begin, end):
            entry: Dict[int, Tuple[int, int]] = {number: (a, b) for number, a, b in _fields(buffer, first, last)}
            if 1 in entry and 2 in entry:
                yield buffer[entry[1][0] : entry[1][1]], *entry[2]


def _fields(buffer: Buffer, at: int, stop: int) -> Iterator[Tuple[int, int, int]]:
    """Number and payload span of each field in `buffer[at:stop]`; of an integer the span of its varint."""
    while at < stop:
        tag, at = _varint(buffer, at, stop)
        wire, first = tag & 7, at
        if wire == 0:
            _, at = _varint(buffer, at, stop)
        elif wire == 2:
            size, first = _varint(buffer, at, stop)
            at = first + size
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            at = stop + 1
        if at > stop:
            raise ValueError("not a tf.train.Example")
        yield tag >> 3, first, at


def _varint(buffer: Buffer, at: int, stop: int) -> Tuple[int, int]:
    value = shift = 0
    while at < stop and shift < 70:
        byte = buffer[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    raise ValueError("not a tf.train.Example")


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
