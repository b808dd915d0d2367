"""What becomes of single images: kept, encoded anew, or refused."""

import io

import numpy as np
import pytest
from PIL import Image

from preprocessing.images import BadImageError, prepare, size
from tests.shard_data import encode, noise

PIXELS = noise(30, 50)


def decoded(data):
    with Image.open(io.BytesIO(data)) as image:
        return image.format, image.mode, np.asarray(image.convert("RGB")).astype(int)


def cmyk_jpeg():
    out = io.BytesIO()
    Image.fromarray(PIXELS).convert("CMYK").save(out, "JPEG", quality=100)
    return out.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpegs_stay_as_they_are(mode, progressive):
    data = encode(np.asarray(Image.fromarray(PIXELS).convert(mode)), "JPEG", progressive=progressive)
    assert prepare(data) == (data, 30, 50, "JPEG")


def test_no_pixel_of_a_plain_jpeg_is_decoded(monkeypatch):
    data = encode(PIXELS, "JPEG")

    def refuse(self, *arguments):
        raise AssertionError("decoded")

    monkeypatch.setattr(Image.Image, "load", refuse)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", refuse)
    assert prepare(data)[1:3] == size(data) == (30, 50)


@pytest.mark.parametrize(
    "data",
    [cmyk_jpeg(), encode(PIXELS, "PNG"), encode(PIXELS, "GIF"), encode(PIXELS, "BMP")],
    ids=["CMYK", "PNG", "GIF", "BMP"],
)
def test_others_become_rgb_jpegs(data):
    made = prepare(data)
    image_format, mode, pixels = decoded(made.data)
    assert (image_format, mode, made.format) == ("JPEG", "RGB", "JPEG")
    assert (made.height, made.width) == pixels.shape[:2] == (30, 50)
    assert np.abs(pixels - PIXELS).mean() < 6


def test_sixteen_bit_grey_keeps_its_range():
    levels = np.linspace(0, 65535, 50).astype(np.uint16)[None].repeat(30, 0)
    out = io.BytesIO()
    Image.fromarray(levels).save(out, "PNG")
    pixels = decoded(prepare(out.getvalue()).data)[2]
    assert np.abs(pixels[..., 0] - (levels >> 8)).max() <= 3


def test_ppm_holds_the_decoded_pixels():
    data = encode(PIXELS, "JPEG")
    made = prepare(data, image_format="PPM")
    assert made.format == decoded(made.data)[0] == "PPM"
    np.testing.assert_array_equal(decoded(made.data)[2], decoded(data)[2])


@pytest.mark.parametrize(("shape", "wanted"), [((30, 50), (20, 33)), ((50, 30), (33, 20)), ((20, 50), (20, 50))])
def test_short_side(shape, wanted):
    made = prepare(encode(noise(*shape), "JPEG", quality=95), short_side=20, quality=100)
    assert decoded(made.data)[2].shape[:2] == (made.height, made.width) == wanted
    reference = np.asarray(Image.fromarray(noise(*shape)).resize(wanted[::-1], Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(decoded(made.data)[2] - reference).mean() < 6


def test_bytes_behind_the_end_are_harmless():
    data = encode(PIXELS, "JPEG") + b"camera maker's notes"
    assert prepare(data).data == data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it has no bytes"),
        (b"<html>not found</html>", "not an image file"),
        (encode(noise(300, 300), "JPEG")[:-200], "truncated"),
        (encode(PIXELS, "PNG")[:100], None),
    ],
    ids=["empty", "text", "cut JPEG", "cut PNG"],
)
def test_bad_images_are_refused(data, reason):
    with pytest.raises(BadImageError, match=reason):
        prepare(data)


def test_huge_images_are_refused(monkeypatch):
    monkeypatch.setattr("preprocessing.images.MAX_PIXELS", 1499)
    with pytest.raises(BadImageError, match="50 x 30 pixels"):
        prepare(encode(PIXELS, "JPEG"))
