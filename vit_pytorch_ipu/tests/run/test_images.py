import fcntl
import io
import multiprocessing
import os
import pickle
import struct
import threading
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from run import images
from run.errors import UserError
from run.images import MAX_PIXELS, BadImageError, BadImages, decode_rgb

# A gradient: distinct per axis and channel, and smooth enough for JPEG to keep it within a few levels.
HEIGHT, WIDTH = 24, 40
ROWS, COLUMNS = np.mgrid[0:HEIGHT, 0:WIDTH]
PIXELS = np.stack([ROWS * 10, COLUMNS * 6, 255 - ROWS * 5 - COLUMNS * 3], axis=-1).astype(np.uint8)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rgb():
    return Image.fromarray(PIXELS)


def jpeg(image=None, **options):
    return encoded(image or rgb(), "JPEG", quality=95, subsampling=0, **options)


def png_chunk(kind, payload):
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def png_that_claims(width, height):
    """A PNG of a few bytes whose header announces any number of pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


def difference(image, pixels):
    """Largest difference in levels between a decoded (3, H, W) image and (H, W, 3) pixels."""
    return int((image.permute(1, 2, 0).int() - torch.from_numpy(pixels.copy()).int()).abs().max())


READABLE = {
    "jpeg": (jpeg(), 6),
    "progressive jpeg": (jpeg(progressive=True), 6),
    "cmyk jpeg": (jpeg(rgb().convert("CMYK")), 12),
    "png": (encoded(rgb(), "PNG"), 0),
    "alpha png": (encoded(rgb().convert("RGBA"), "PNG"), 0),
    "tiff": (encoded(rgb(), "TIFF"), 0),
    "bmp": (encoded(rgb(), "BMP"), 0),
    "webp": (encoded(rgb(), "WEBP", lossless=True), 0),
}


@pytest.mark.parametrize("kind", READABLE)
def test_every_kind_becomes_the_same_rgb(kind):
    data, tolerance = READABLE[kind]
    image = decode_rgb(data)
    assert image.dtype == torch.uint8
    assert image.shape == (3, HEIGHT, WIDTH)
    assert difference(image, PIXELS) <= tolerance


@pytest.mark.parametrize("name", ["photo.jpeg", "photo.png", "photo"])
def test_content_decides_not_the_name(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(encoded(rgb(), "PNG"))
    assert difference(decode_rgb(str(path)), PIXELS) == 0


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_grey_becomes_three_equal_channels(kind):
    grey = PIXELS[:, :, 1]
    image = decode_rgb(encoded(Image.fromarray(grey), kind))
    assert difference(image, np.repeat(grey[:, :, None], 3, axis=2)) <= 3
    assert torch.equal(image[0], image[1])
    assert torch.equal(image[0], image[2])


def test_a_file_that_is_handed_out_in_pieces_is_read_whole(tmp_path, monkeypatch):
    """As network file systems may; an image must not count as bad for it."""

    class InPieces(io.FileIO):
        def readinto(self, buffer):
            return super().readinto(memoryview(buffer)[:100])

    (tmp_path / "image").write_bytes(jpeg())
    monkeypatch.setattr(images, "open", lambda path, _mode, buffering: InPieces(path), raising=False)
    assert torch.equal(decode_rgb(str(tmp_path / "image")), decode_rgb(jpeg()))


def test_grey_with_alpha_and_one_bit_images_are_read():
    grey = Image.fromarray(PIXELS[:, :, 1])
    assert difference(decode_rgb(encoded(grey.convert("LA"), "PNG")), np.stack([PIXELS[:, :, 1]] * 3, -1)) == 0
    assert set(decode_rgb(encoded(grey.convert("1"), "PNG")).unique().tolist()) == {0, 255}


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(kind):
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    image = decode_rgb(encoded(Image.fromarray(levels * 257), kind))
    assert torch.equal(image, torch.from_numpy(levels.astype(np.uint8)).expand(3, 16, 16))


def test_sixteen_bit_colour_png_is_read():
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in PIXELS.astype(np.uint16) * 257)
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header)
    data += png_chunk(b"IDAT", zlib.compress(raw)) + png_chunk(b"IEND", b"")
    assert difference(decode_rgb(data), PIXELS) == 0


def test_palette_with_transparency_keeps_its_colours():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    decoded = decode_rgb(encoded(image, "PNG", transparency=b"\x80\x40"))
    assert decoded[:, 0].T.tolist() == [[10, 20, 30], [200, 100, 50]]


def test_exif_orientation_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    assert torch.equal(decode_rgb(jpeg(exif=exif)), decode_rgb(jpeg()))


def test_fast_jpeg_path_equals_pillow():
    data = encoded(rgb(), "JPEG", quality=80, subsampling=2)
    by_pillow = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert difference(decode_rgb(data), by_pillow) == 0


def test_channels_lie_innermost_in_memory():
    assert decode_rgb(jpeg()).stride() == decode_rgb(encoded(rgb(), "PNG")).stride() == (1, 3 * WIDTH, 3)


UNREADABLE = {
    "zero bytes": (b"", "empty file"),
    "truncated jpeg": (jpeg()[: len(jpeg()) // 2], "runcated"),
    "jpeg header only": (jpeg()[:20], "not an image"),
    "truncated png": (encoded(rgb(), "PNG")[:-40], "truncated"),
    "text": (b"<html>404 not found</html>", "not an image"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    "huge png": (png_that_claims(20_000, 20_000), "pixels"),
    "large png": (png_that_claims(10_000, 10_000), "pixels"),
    "more pixels than allowed": (png_that_claims(2**13 + 1, 2**13), f"more than {MAX_PIXELS}"),
    "no pixels": (png_that_claims(0, 0), "not an image"),
    "floating-point tiff": (encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "floating-point"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_unreadable_images_raise_one_kind_of_error(kind):
    data, reason = UNREADABLE[kind]
    with pytest.raises(BadImageError) as caught:
        decode_rgb(data)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder_are_bad_images(tmp_path):
    with pytest.raises(BadImageError, match="No such file"):
        decode_rgb(str(tmp_path / "gone.jpg"))
    with pytest.raises(BadImageError, match="directory"):
        decode_rgb(str(tmp_path))


def test_random_damage_never_raises_anything_else():
    random = np.random.default_rng(0)
    for data in (jpeg(), encoded(rgb(), "PNG"), encoded(rgb(), "TIFF"), encoded(rgb(), "WEBP")):
        for _ in range(60):
            damaged = bytearray(data)
            for position in random.integers(0, len(data), 4):
                damaged[position] = random.integers(0, 256)
            try:
                image = decode_rgb(bytes(damaged))
            except BadImageError:
                continue
            assert image.dtype == torch.uint8
            assert image.shape[0] == 3


def load_all_but(*bad):
    def load(index):
        if index in bad:
            raise BadImageError("broken")
        return index * 100

    return load


def test_a_bad_image_is_replaced_by_the_next_good_one(tmp_path):
    bad_images = BadImages(str(tmp_path / "bad.txt"), 0.5)
    load = load_all_but(1, 2, 5)
    found = [bad_images.first_good(index, 6, load, "image {}".format) for index in range(6)]
    assert found == [(0, 0), (3, 300), (3, 300), (3, 300), (4, 400), (0, 0)]
    assert (tmp_path / "bad.txt").read_text().splitlines() == [
        "image 1\tbroken", "image 2\tbroken", "image 5\tbroken",
    ]  # fmt: skip


def test_each_image_is_listed_once_also_by_another_run(tmp_path):
    path = str(tmp_path / "out" / "bad.txt")
    for _ in range(2):
        bad_images = BadImages(path, 0.5)
        for name in ("b.jpg", "a.jpg", "b.jpg"):
            bad_images.record(name, "truncated")
    assert bad_images.names() == ["a.jpg", "b.jpg"]
    with open(path) as file:
        assert len(file.readlines()) == 2


def test_odd_names_stay_on_one_line(tmp_path):
    bad_images = BadImages(str(tmp_path / "bad.txt"), 0.5)
    odd = os.fsdecode(b"caf\xe9\tline\nfeed.jpg")
    for _ in range(2):
        bad_images.record(odd, "two\nlines")
    assert bad_images.names() == [os.fsdecode(b"caf\xe9?line?feed.jpg")]
    assert (tmp_path / "bad.txt").read_bytes().count(b"\n") == 1


@pytest.mark.parametrize(
    ("bad", "samples", "ratio", "stops"),
    [(1, 10, 0.0, False), (2, 10, 0.0, True), (10, 10_000, 0.001, False), (11, 10_000, 0.001, True)],
)
def test_the_run_stops_above_the_ratio(tmp_path, bad, samples, ratio, stops):
    bad_images = BadImages(str(tmp_path / "bad.txt"), ratio)
    for index in range(bad):
        bad_images.record(f"/data/train/{index}.jpg", "broken")
    if stops:
        with pytest.raises(UserError, match=rf"{bad} of {samples} .*bad\.txt.*bad_image_ratio"):
            bad_images.check(samples)
    else:
        assert bad_images.check(samples) == bad
    assert bad_images.check(samples, within="/data/val/") == 0


def test_nothing_is_written_without_a_bad_image(tmp_path):
    bad_images = BadImages(str(tmp_path / "bad.txt"), 0.0)
    assert bad_images.first_good(0, 1, load_all_but(), str) == (0, 0)
    assert bad_images.check(1) == 0
    assert os.listdir(tmp_path) == []


def test_a_long_run_of_bad_images_is_an_error(tmp_path):
    bad_images = BadImages(str(tmp_path / "bad.txt"), 1.0)
    with pytest.raises(UserError, match=r"32 images in a row .* first image 7 \(broken\)"):
        bad_images.first_good(7, 1000, load_all_but(*range(7, 39)), "image {}".format)
    with pytest.raises(UserError, match="2 images in a row"):
        bad_images.first_good(0, 2, load_all_but(0, 1), "image {}".format)


def test_a_process_waits_while_another_writes_the_list(tmp_path):
    bad_images = BadImages(str(tmp_path / "bad.txt"), 0.5)
    with open(bad_images.path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        other = threading.Thread(target=bad_images.record, args=("a.jpg", "broken"))
        other.start()
        other.join(0.1)
        file.write("a.jpg\tbroken\n")
    other.join()
    assert (tmp_path / "bad.txt").read_text() == "a.jpg\tbroken\n"


def _record_many(bad_images, barrier):
    barrier.wait()
    for index in range(100):
        bad_images.record(f"{index}.jpg", "broken")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_processes_share_one_list(tmp_path):
    context = multiprocessing.get_context("fork")
    bad_images = BadImages(str(tmp_path / "bad.txt"), 0.5)
    barrier = context.Barrier(3)
    processes = [context.Process(target=_record_many, args=(bad_images, barrier)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert bad_images.check(1000) == 100
    assert (tmp_path / "bad.txt").read_text().count("\n") == 100


def test_without_a_path_the_list_goes_to_a_file_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    first, second = BadImages(None, 0.0), BadImages(None, 0.0)
    pickle.loads(pickle.dumps(first)).record("a.jpg", "broken")
    assert first.names() == ["a.jpg"]
    assert second.names() == []
