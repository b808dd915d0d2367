"""The part of a JPEG that a crop needs, against the whole one decoded by Pillow."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from run import images, jpeg
from run.images import BadImageError, decode_rgb

HEIGHT, WIDTH = 75, 101
BOXES = [(0, 0, 75, 101), (0, 0, 1, 1), (3, 5, 20, 40), (31, 50, 33, 51), (74, 100, 1, 1), (15, 0, 17, 101)]

pytestmark = pytest.mark.skipif(not jpeg.HAS_PARTS, reason="without simplejpeg there is no fast path")


def picture(height=HEIGHT, width=WIDTH):
    """Smooth colours, edges and a little noise, far from black and white: nothing is clipped."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(70, 180, (5, 7, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.BICUBIC)).astype(float)
    pixels[height // 3 : height // 2, width // 4 :] += 30
    return Image.fromarray((pixels + random.normal(0, 4, (height, width, 3))).clip(0, 255).astype(np.uint8))


def encoded(image=None, kind="JPEG", **options):
    buffer = io.BytesIO()
    (image or picture()).save(buffer, kind, **{"quality": 90, **options})
    return buffer.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def of_pillow(data, box):
    top, left, rows, columns = box
    whole = torch.from_numpy(np.array(Image.open(io.BytesIO(data)).convert("RGB"))).permute(2, 0, 1)
    return whole[:, top : top + rows, left : left + columns]


def brightness(image):
    return torch.einsum("chw,c->hw", image.double(), torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64))


def always(box):
    return lambda _height, _width: box


@pytest.fixture
def heights(monkeypatch):
    """The heights that simplejpeg is told."""
    told = []

    def decode(data, **options):
        told.append(Image.open(io.BytesIO(data)).height)
        return plain(data, **options)

    plain = jpeg.simplejpeg.decode_jpeg
    monkeypatch.setattr(jpeg.simplejpeg, "decode_jpeg", decode)
    return told


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(("subsampling", "mean"), [(0, 1.5), (1, 2), (2, 2)])
def test_pixels_are_off_by_a_level_as_colours_are_repeated(box, subsampling, mean, heights):
    data = encoded(subsampling=subsampling)
    fast, plain = decode_rgb(data, always(box)), of_pillow(data, box)
    assert fast.shape == plain.shape
    assert (brightness(fast) - brightness(plain)).abs().max() <= 4
    assert (fast.double() - plain.double()).abs().mean() <= (mean if box[2] > 1 else 8)
    assert heights == [box[0] + box[2]]


OTHERS = {
    "progressive": encoded(progressive=True),
    "grey": encoded(picture().convert("L")),
    "cmyk": encoded(picture().convert("CMYK")),
    "restart markers": encoded(restart_marker_rows=1),
    "more after its end": encoded() + b"\0\0",
    "png": encoded(kind="PNG"),
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("box", BOXES)
def test_other_files_take_the_plain_way(kind, box, heights):
    whole = decode_rgb(OTHERS[kind])
    top, left, rows, columns = box
    assert torch.equal(decode_rgb(OTHERS[kind], always(box)), whole[:, top : top + rows, left : left + columns])
    assert heights == []


def test_what_simplejpeg_refuses_takes_the_plain_way(monkeypatch):
    def refuse(data, **_):
        raise ValueError("an unusual subsampling")

    monkeypatch.setattr(jpeg.simplejpeg, "decode_jpeg", refuse)
    for box in BOXES:
        assert torch.equal(decode_rgb(encoded(), always(box)), of_pillow(encoded(), box))


def test_rgb_and_rotated_files_are_as_on_the_plain_way(heights):
    for data in (encoded(keep_rgb=True, subsampling=0), encoded(exif=exif(6), subsampling=0)):
        assert (decode_rgb(data, always(BOXES[3])).int() - of_pillow(data, BOXES[3]).int()).abs().max() <= 8
    assert len(heights) == 2


def test_the_box_is_drawn_once_from_the_size_and_nothing_is_printed(capfd):
    for data in (encoded(), *OTHERS.values()):
        asked = []
        decode_rgb(data, lambda *size, asked=asked: asked.append(size) or BOXES[2])
        assert asked == [(HEIGHT, WIDTH)]
    assert capfd.readouterr() == ("", "")


def test_without_simplejpeg_the_whole_is_decoded(monkeypatch, heights):
    monkeypatch.setattr(images, "HAS_PARTS", False)
    data = encoded(subsampling=2)
    for box in BOXES:
        assert torch.equal(decode_rgb(data, always(box)), of_pillow(data, box))
    assert heights == []


def verdict(data, crop=None):
    try:
        decode_rgb(data, crop)
    except BadImageError as error:
        return str(error)
    return "good"


def test_damage_is_judged_as_on_the_plain_way():
    """Also where it lies below the crop: whether an image is bad must not depend on the draw."""
    random = np.random.default_rng(1)
    data, found = encoded(), []
    for _ in range(400):
        damaged = bytearray(data[: random.integers(1, len(data))] if random.random() < 0.1 else data)
        for position in random.integers(0, len(damaged), 3):
            damaged[position] = random.choice([0x00, 0x7F, 0xC0, 0xC4, 0xD8, 0xD9, 0xFF])
        found.append(verdict(bytes(damaged)))
        assert verdict(bytes(damaged), always((0, 0, 3, 3))) == found[-1]
    assert found.count("good") > 50
    assert len(found) - found.count("good") > 50


def test_a_marker_below_the_crop_is_not_overlooked():
    data = bytearray(encoded())
    place = data.rindex(b"\xff\x00")  # in the last rows
    data[place + 1] = 0xC0  # a second frame: no decoder accepts that
    assert verdict(bytes(data)) != "good"
    assert verdict(bytes(data), always((0, 0, 3, 3))) == verdict(bytes(data))


def test_a_scan_behind_the_end_of_the_file_has_no_frame():
    data = bytearray(encoded())
    data[data.index(b"\xff\xda") + 2] = 0xFF
    assert jpeg.ordinary_frame(data) is None
    assert verdict(bytes(data), always(BOXES[1])) == verdict(bytes(data)) != "good"


def test_too_many_pixels_are_refused():
    data = bytearray(encoded())
    frame = jpeg.ordinary_frame(data)
    data[frame.at : frame.at + 4] = b"\x20\x00\x20\x01"
    assert "more than" in verdict(bytes(data), always(BOXES[1]))
