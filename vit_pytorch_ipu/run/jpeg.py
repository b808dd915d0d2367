"""Decoding of a JPEG for a crop of it, as far down as that needs, by simplejpeg where it is installed.

Most of the time that a JPEG takes goes into its Huffman code, which can only be read from the beginning. A header that
states fewer rows ends the reading there. The cosine transform is the fast one, TensorFlow's default too, and colours,
of which most JPEGs have one for four pixels, are repeated over these instead of interpolated: pixels are off by a
level, at sharp edges between colours by more.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

import numpy as np

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

HAS_PARTS = simplejpeg is not None
_START, _END = b"\xff\xd8\xff", b"\xff\xd9"
_BASELINE = (0xC0, 0xC1)  # markers of frames in Huffman code that are read in one go
_TABLES = (0xC4, 0xDB, 0xFE, *range(0xE0, 0xF0))  # Huffman and quantisation tables, comments, application data
_SCAN = 0xDA


class Frame(NamedTuple):
    """What the header of an ordinary colour JPEG states: size in pixels, and where in the file its height lies."""

    height: int
    width: int
    at: int


def ordinary_frame(data: bytearray) -> Optional[Frame]:
    """The frame of a whole baseline JPEG of three 8-bit components in one scan; None for any other file.

    After its header such a file has no markers but the last, so there is nothing in it that decoders could stumble
    over: wherever reading stops, it is as good as the whole.
    """
    if not (data.startswith(_START) and data.endswith(_END)):
        return None
    frame, at = None, 2
    while at + 10 < len(data) and data[at] == 0xFF:
        marker, size = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in _BASELINE:
            precision, components = data[at + 4], data[at + 9]
            height, width = (int.from_bytes(data[start : start + 2], "big") for start in (at + 5, at + 7))
            if frame or precision != 8 or components != 3 or not (height and width):
                return None
            frame = Frame(height, width, at + 5)
        elif marker == _SCAN:
            return frame if frame and data[at + 4] == 3 and _is_uninterrupted(data, at + 2 + size) else None
        elif marker not in _TABLES:
            return None
        at += 2 + size
    return None


def _is_uninterrupted(data: bytearray, start: int) -> bool:
    """Whether the scan from `start` holds no marker but the last; a byte 255 of the code is followed by a zero."""
    scan = np.frombuffer(data, np.uint8)[start:]  # empty if a damaged header has it start behind the file's end
    return np.count_nonzero((scan[:-1] == 0xFF) & (scan[1:] != 0)) == 1


def decode_upper_rows(data: bytearray, frame: Frame, rows: int) -> np.ndarray:
    """The first `rows` rows of the image, (rows, width, 3) uint8; `data` is the same before and after.

    Raises:
        ValueError: simplejpeg can't decode it.
    """
    stated = data[frame.at : frame.at + 2]
    data[frame.at : frame.at + 2] = rows.to_bytes(2, "big")
    try:
        pixels: np.ndarray = simplejpeg.decode_jpeg(data, fastdct=True, fastupsample=True, strict=False)
    finally:
        data[frame.at : frame.at + 2] = stated
    return pixels
