"""Decoding that no image file can stop: what cannot be read is replaced, listed once, and counted.

Any image becomes (3, height, width) uint8 RGB. What a file contains decides how it is read, never its name.
EXIF orientation is ignored and alpha dropped, as in torchvision's ImageFolder, which others measure with.
"""

from __future__ import annotations

import fcntl
import io
import os
import tempfile
import uuid
from typing import Callable, List, Optional, Set, Tuple, TypeVar, Union

import numpy as np
import torch
from PIL import Image, features
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from .errors import UserError
from .jpeg import HAS_PARTS, decode_upper_rows, ordinary_frame

T = TypeVar("T")
Box = Tuple[int, int, int, int]  # top, left, rows, columns
Crop = Callable[[int, int], Box]  # of an image's height and width

MAX_PIXELS = 2**26  # 67 megapixels, 200 MB as RGB; below Pillow's own limit
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", *(("WEBP",) if features.check("webp") else ()))
_MAX_BAD_IN_A_ROW = 32


class BadImageError(Exception):
    """An image that cannot be decoded; the text says why in a few words."""


def decode_rgb(source: Union[str, bytes], crop: Optional[Crop] = None) -> Tensor:
    """Decode an image file, given by path or content, to a (3, H, W) uint8 tensor.

    The pixels lie channels-last in memory. Colour JPEGs go straight through libjpeg-turbo, the rest
    through Pillow; 16-bit grey is scaled to 8 bits.

    Args:
        source: path or content.
        crop: chooses the part that is wanted, once; a JPEG is only decoded as far as that needs.

    Raises:
        BadImageError: whatever keeps the pixels from being had: missing, truncated, not an image, too large.
    """
    try:
        data = bytearray(source) if isinstance(source, bytes) else _read(source)
        if not data:
            raise BadImageError("empty file")
        return _decode_part(data, crop) if crop and HAS_PARTS else cut(_decode(data), crop)
    except BadImageError:
        raise
    except Exception as error:  # decoders raise almost anything on hostile bytes
        raise BadImageError(_reason(error)) from error


def cut(image: Tensor, crop: Optional[Crop]) -> Tensor:
    """The part of (3, H, W) that `crop` chooses, None being all of it."""
    return _part(image, crop(*image.shape[-2:])) if crop else image


def _part(image: Tensor, box: Box) -> Tensor:
    top, left, rows, columns = box
    return image[:, top : top + rows, left : left + columns]


def _decode_part(data: bytearray, crop: Crop) -> Tensor:
    frame = ordinary_frame(data)
    if frame is None or frame.width * frame.height > MAX_PIXELS:
        return cut(_decode(data), crop)
    top, left, rows, columns = box = crop(frame.height, frame.width)
    try:
        pixels = decode_upper_rows(data, frame, top + rows)
    except ValueError:  # an unusual subsampling, or not a JPEG after all
        return _part(_decode(data), box)
    return torch.from_numpy(np.ascontiguousarray(pixels[top : top + rows, left : left + columns])).permute(2, 0, 1)


def _decode(data: bytearray) -> Tensor:
    image = Image.open(io.BytesIO(data), formats=_FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise BadImageError(f"{image.width} x {image.height} pixels, more than {MAX_PIXELS}")
    if data[:3] == b"\xff\xd8\xff" and image.mode == "RGB":
        return _decode_jpeg(data, image)
    return _decode_with_pillow(image)


def _read(path: str) -> bytearray:
    with open(path, "rb", buffering=0) as file:
        data = bytearray(os.fstat(file.fileno()).st_size)
        size = file.readinto(data) or 0
        if size < len(data):  # network file systems may give less than was asked for
            data[size:] = file.readall()
    return data


def _decode_jpeg(data: bytearray, image: Image.Image) -> Tensor:
    try:
        return decode_jpeg(torch.frombuffer(data, dtype=torch.uint8), ImageReadMode.RGB)
    except RuntimeError:  # Pillow reads some variants that torchvision refuses, and has the better message
        return _decode_with_pillow(image)


def _decode_with_pillow(image: Image.Image) -> Tensor:
    if image.mode == "F":
        raise BadImageError("floating-point pixels")
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's own conversion would clip at 255
        grey = np.asarray(image).astype(np.int64).clip(0, 65535) >> 8
        pixels = np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    else:
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")
        pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image in a known format"
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


class BadImages:
    """The list of images that could not be decoded, shared by all processes of a run through one file.

    The file has a line per image, `name<TAB>reason`; it is made when the first one turns up. An instance may
    be pickled to worker processes.

    Args:
        path: the file; None for a new one in the temporary folder.
        ratio: share of a data set's images that may be bad; one is always tolerated.
    """

    def __init__(self, path: Optional[str], ratio: float) -> None:
        self.path = path or os.path.join(tempfile.gettempdir(), f"bad_images-{uuid.uuid4().hex[:12]}.txt")
        self.ratio = ratio
        self._listed: Set[str] = set()

    def record(self, name: str, reason: str) -> None:
        """List image `name`, unless this or another process has done so."""
        name = _one_line(name)
        if name in self._listed:
            return
        os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
        with open(self.path, "a+", encoding="utf-8", errors="surrogateescape") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # held until the file is closed
            file.seek(0)
            self._listed = _names(file.read())
            if name not in self._listed:
                file.write(f"{name}\t{_one_line(reason)}\n")
        self._listed.add(name)

    def names(self) -> List[str]:
        """Names of all images listed so far by any process, sorted."""
        if not os.path.exists(self.path):
            return []
        with open(self.path, encoding="utf-8", errors="surrogateescape") as file:
            return sorted(_names(file.read()))

    def check(self, samples_in_dataset: int, within: str = "") -> int:
        """The number of listed images whose name starts with `within`.

        Raises:
            UserError: when they are more than `ratio` of `samples_in_dataset`, and more than one.
        """
        bad = [name for name in self.names() if name.startswith(within)]
        if len(bad) > 1 and len(bad) / samples_in_dataset > self.ratio:
            raise UserError(
                f"{len(bad)} of {samples_in_dataset} images cannot be decoded, more than the tolerated share "
                f"of {self.ratio:g}: repair or remove the files listed in {self.path} and delete that list, "
                "or raise bad_image_ratio."
            )
        return len(bad)

    def first_good(
        self, index: int, length: int, load: Callable[[int], T], name: Callable[[int], str]
    ) -> Tuple[int, T]:
        """`(index, load(index))`; where that image is bad, the next good one after it, round the end.

        The rule knows nothing of processes or time: every worker and every run chooses the same replacement.

        Raises:
            UserError: when none of the next images can be decoded either.
        """
        reasons = []
        for offset in range(min(length, _MAX_BAD_IN_A_ROW)):
            candidate = (index + offset) % length
            try:
                return candidate, load(candidate)
            except BadImageError as error:
                reasons.append(str(error))
                self.record(name(candidate), reasons[-1])
        raise UserError(
            f"{len(reasons)} images in a row cannot be decoded, first {name(index)} ({reasons[0]}): "
            f"check that the data are complete and readable; {self.path} lists them."
        )


def _names(lines: str) -> Set[str]:
    return {line.split("\t", 1)[0] for line in lines.split("\n") if line}


def _one_line(text: str) -> str:
    return text.replace("\t", "?").replace("\n", "?").replace("\r", "?")
