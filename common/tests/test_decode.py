from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from common.decode import Unit, encoded_image, examine
from common.imagenet import check


def encoded(mode="RGB", kind="JPEG", size=(20, 16)):
    out = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), np.uint8)
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(pixels, "CMYK" if mode == "CMYK" else "RGBA").convert(mode)
    image.save(out, kind)
    return out.getvalue()


# name -> (bytes, what is said of it)
BAD = {
    "truncated.JPEG": (encoded()[:-200], "image file is truncated"),
    "zero.JPEG": (b"", "it has no bytes"),
    "text.JPEG": (b"404 not found", "not an image file"),
    "half.png": (encoded(kind="PNG")[:-300], "image file is truncated"),
}
ODD = {
    "cmyk.JPEG": (encoded("CMYK"), "a CMYK image"),
    "misnamed.JPEG": (encoded(kind="PNG"), "a PNG file by content"),
    "deep.png": (encoded("I;16", "PNG"), "a I;16 image"),
}
FINE = {
    "a.JPEG": encoded(), "A.JPG": encoded(), "grey.JPEG": encoded("L"), "palette.png": encoded("P", "PNG"),
    "alpha.png": encoded("RGBA", "PNG"), "b.webp": encoded(kind="WEBP"), "c.bmp": encoded(kind="BMP"),
    "d.tif": encoded(kind="TIFF"), "e.ppm": encoded(kind="PPM"),
}  # fmt: skip


@pytest.mark.parametrize("name", [*BAD, *ODD, *FINE])
def test_examine(tmp_path, name):
    data, reason = {**BAD, **ODD, **{name: (data, "") for name, data in FINE.items()}}[name]
    path = tmp_path / name
    path.write_bytes(data)
    found = examine(Unit(str(path), "image", str(path)))
    assert [(odd.name, odd.bad) for odd in found] == ([] if name in FINE else [(str(path), name in BAD)])
    assert all(odd.reason.startswith(reason) for odd in found)


def test_every_image_of_both_splits_is_decoded(folder, cli):
    for split in ("train", "validation"):
        folder.write(f"{split}/cat/a.JPEG", encoded())
        folder.write(f"{split}/dog/a.JPEG", encoded())
    for name, (data, _) in {**BAD, **ODD}.items():
        folder.write(f"train/cat/{name}", data)
    folder.write("validation/dog/deep/zero.JPEG", b"")
    assert check(folder.root).ok  # nothing is opened unless asked for
    result = cli("check", folder.root, "--decode", "--workers", "2")
    assert (result.returncode, result.stderr) == (1, "")
    lines = result.stdout.splitlines()
    for name, (_, reason) in BAD.items():
        (line,) = [line for line in lines if f"/train/cat/{name} " in line]
        assert line.startswith(f"problem: {folder.root}/train/cat/{name} cannot be decoded ({reason}")
        assert line.endswith("): fetch or unpack it again, or remove it.")
    for name, (_, reason) in ODD.items():
        assert f"note: {folder.root}/train/cat/{name} is {reason}: loaders that convert to RGB cope." in lines
    assert sum(line.startswith("problem: ") for line in lines) == len(BAD) + 1
    assert any(line.startswith(f"problem: {folder.root}/validation/dog/deep/zero.JPEG") for line in lines)
    assert lines[-1] == "5 problems"


def test_decode_of_plain_images_is_ok(folder):
    folder.write("train/cat/cmyk.JPEG", encoded("CMYK"))
    folder.write("val/cat/a.JPEG", encoded())
    verdict = check(folder.root, decode=True, workers=1)
    assert verdict.ok  # ImageNet itself has CMYK images
    assert len(verdict.notes) == 1


def test_layout_problems_and_bad_images_are_both_told(folder):
    folder.write("train/cat/a.JPEG", b"")
    verdict = check(folder.root, decode=True, workers=1)
    assert [problem.what.split(" ")[0] for problem in verdict.problems] == [
        str(folder.root), f"{folder.root}/train/cat/a.JPEG"
    ]  # fmt: skip


def field(number, payload):
    assert len(payload) < 1 << 14
    size = bytes([len(payload) & 127 | 128, len(payload) >> 7])
    return bytes([number << 3 | 2]) + size + payload


def example(image):
    """A tf.train.Example as the TensorFlow app's shards hold it."""
    label = field(3, field(1, b"\x07"))
    entries = [("image/height", label), ("image/encoded", field(1, field(1, image))), ("image/format", label)]
    return field(1, b"".join(field(1, field(1, key.encode()) + field(2, value)) for key, value in entries))


def record(data):
    return struct.pack("<Q", len(data)) + b"\0\0\0\0" + data + b"\0\0\0\0"


def test_encoded_image():
    assert encoded_image(example(b"jpeg" * 100)) == b"jpeg" * 100
    assert encoded_image(b"\x08\x96\x01" + b"\x11" + b"\0" * 8 + b"\x1d" + b"\0" * 4 + example(b"x")) == b"x"
    for broken in (b"", b"\x0b\x00", b"\x0a\x80", field(1, field(1, field(1, b"image/width") + field(2, b"")))):
        with pytest.raises(ValueError, match="a record "):
            encoded_image(broken)


def test_shards_are_decoded(folder):
    folder.write("train/train-00000-of-00001", record(example(encoded())) + record(example(encoded()[:-200])))
    folder.write("validation/validation-00000-of-00001", b"".join(map(record, (b"\x0b", example(b""), b"junk"))))
    train, validation = (folder.root / f"{split}/{split}-00000-of-00001" for split in ("train", "validation"))
    problems = [problem.what for problem in check(folder.root, decode=True, workers=1).problems]
    assert len(problems) == 4
    assert problems[0].startswith(f"{train} record 1 cannot be decoded (image file is truncated")
    assert problems[1] == f"{validation} record 0 cannot be decoded (a record is not a tf.train.Example)"
    assert problems[2] == f"{validation} record 1 cannot be decoded (it has no bytes)"
    assert problems[3] == f"{validation} record 2 cannot be decoded (a record has no image/encoded)"


def test_archives_are_decoded(sample_data, tmp_path):
    source = sample_data / "archives"
    assert check(source, decode=True, workers=2).problems == ()
    for path in source.iterdir():
        data = bytearray(path.read_bytes())
        for name in (b"digit_3_", b"ILSVRC2012_val_00000007.JPEG"):
            at = data.find(b"\xff\xd8", data.find(name)) if name in data else 0
            data[at : at + 2] = b"--" if at else data[:2]
        (tmp_path / path.name).write_bytes(data)
    verdict = check(tmp_path, decode=True, workers=2)
    assert [problem.what.split(" ", 1) for problem in verdict.problems] == [
        [f"{tmp_path}/ILSVRC2012_img_train.tar/digit_3.tar/digit_3_{first_of(source)}.JPEG",
         "cannot be decoded (not an image file)"],
        [f"{tmp_path}/ILSVRC2012_img_val.tar/ILSVRC2012_val_00000007.JPEG", "cannot be decoded (not an image file)"],
    ]  # fmt: skip


def first_of(source):
    data = (source / "ILSVRC2012_img_train.tar").read_bytes()
    return data.split(b"digit_3_", 1)[1].split(b".", 1)[0].decode()
