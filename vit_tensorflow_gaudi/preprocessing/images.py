"""One image as the shards hold it: its own bytes, its size from the header, wherever it may stay as it is."""

from __future__ import annotations

import io
import warnings
from contextlib import contextmanager
from typing import Iterator, NamedTuple, Optional, Tuple

import numpy as np
from PIL import Image

from dataset.augmentation import PPM_HEADER

MAX_PIXELS = 2**26  # 67 megapixels, 200 MB decoded; below Pillow's own limit
JPEG_START = b"\xff\xd8\xff"
_AS_THEY_ARE = ("RGB", "L")  # grey JPEGs are decoded to three equal channels


class BadImageError(ValueError):
    """Not an image that can be used; the text says why in a few words."""


class Encoded(NamedTuple):
    """Content of `image/encoded`, `image/height`, `image/width` and `image/format`."""

    data: bytes
    height: int
    width: int
    format: str


def prepare(data: bytes, short_side: Optional[int] = None, image_format: str = "JPEG", quality: int = 100) -> Encoded:
    """The bytes themselves where they are a plain JPEG, else an RGB image encoded anew.

    CMYK JPEGs and other formats, which ImageNet has 22 and one of, become JPEGs of `quality`. Images whose shorter side
    exceeds `short_side` are shrunk to it. "PPM" stores pixels, which cost more room and a fraction of the time to read.

    Raises:
        BadImageError: no image, cut short, or too large.
    """
    with _opened(data) as image:
        width, height = image.size
        shrink = short_side is not None and min(width, height) > short_side
        plain = data[:3] == JPEG_START and image.mode in _AS_THEY_ARE and image_format == "JPEG"
        if plain and not shrink:
            return Encoded(data, height, width, "JPEG")
        return _encode(image, short_side if shrink else None, image_format, quality)


def size(data: bytes) -> Tuple[int, int]:
    """Height and width that an encoded image states; BadImageError as `prepare` raises it."""
    with _opened(data) as image:
        return image.height, image.width


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """The image with its header read; decoded only where a JPEG's end is not where it should be."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on metadata
            with Image.open(io.BytesIO(data)) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise BadImageError(f"{image.width} x {image.height} pixels are too many")
                if data[:3] == JPEG_START and not data.rstrip(b"\0").endswith(b"\xff\xd9"):
                    image.load()  # bytes after the image's end are harmless, pixels that lack are not
                yield image
    except BadImageError:
        raise
    except Exception as error:  # Pillow's decoders raise almost anything on hostile bytes
        lines = str(error).splitlines() or [type(error).__name__]
        reason = "not an image file" if "cannot identify" in lines[0] else lines[0]
        raise BadImageError(reason if data else "it has no bytes") from None


def _encode(image: Image.Image, short_side: Optional[int], image_format: str, quality: int) -> Encoded:
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's own conversion would clip at 255
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    pixels = image.convert("RGB")
    if short_side is not None:
        ratio = short_side / min(pixels.size)
        shape = (max(short_side, round(pixels.width * ratio)), max(short_side, round(pixels.height * ratio)))
        pixels = pixels.resize(shape, Image.Resampling.BICUBIC, reducing_gap=3.0)
    if image_format == "PPM":  # not Pillow's, because the header has to be of a fixed length
        return Encoded(PPM_HEADER % pixels.size + pixels.tobytes(), pixels.height, pixels.width, image_format)
    out = io.BytesIO()
    pixels.save(out, image_format, quality=quality)
    return Encoded(out.getvalue(), pixels.height, pixels.width, image_format)
