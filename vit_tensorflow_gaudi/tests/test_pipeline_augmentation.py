"""From encoded images to pixels, against independent references."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from dataset.augmentation import GOOGLE, Augmentation, plain_image, rotate, saturate, training_image
from preprocessing.images import prepare
from tests.shard_data import encode, noise

CROP = Augmentation(flip=False, brightness=0.0, saturation=None)


def seeds(count):
    return [tf.constant([11, k], tf.int64) for k in range(count)]


def graph(augmentation, size=16):
    return tf.function(lambda data, seed: training_image(data, seed, size, augmentation))


def reference_resize(pixels, size):
    """Bilinear with half-pixel centres, clamped at the borders, written out."""

    def taps(length):
        centre = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
        low = np.floor(centre).astype(int)
        return low, np.minimum(low + 1, length - 1), centre - low

    y0, y1, fy = taps(pixels.shape[0])
    x0, x1, fx = taps(pixels.shape[1])
    rows = pixels[y0] * (1 - fy)[:, None, None] + pixels[y1] * fy[:, None, None]
    return rows[:, x0] * (1 - fx)[:, None] + rows[:, x1] * fx[:, None]


@pytest.mark.parametrize("shape", [(30, 50), (50, 30), (33, 33), (3, 200), (1, 1)])
@pytest.mark.parametrize("geometry", ["crop", "squash"])
def test_evaluation_geometry(shape, geometry):
    pixels = noise(*shape)
    height, width = shape
    side = min(shape)
    top, left = (height - side) // 2, (width - side) // 2
    part = pixels[top : top + side, left : left + side] if geometry == "crop" else pixels
    found = plain_image(tf.constant(encode(pixels)), 24, geometry).numpy()
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, reference_resize(part.astype(float), 24), atol=0.51)


@pytest.mark.parametrize("geometry", ["crop", "squash"])
def test_evaluation_of_jpegs_is_exact(geometry):
    """The fused decode gives what Pillow's full decode gives, but for columns at the edge of a crop."""
    data = encode(noise(60, 96), "JPEG", quality=90)
    with Image.open(io.BytesIO(data)) as image:
        decoded = encode(np.asarray(image))
    fused, full = (plain_image(tf.constant(some), 60, geometry).numpy().astype(int) for some in (data, decoded))
    assert np.abs(fused - full)[:, 2:-2].max() <= 1
    assert np.abs(fused - full).mean() < 0.3


def test_crops_follow_their_distribution():
    """A picture of its own coordinates tells where each crop was."""
    height, width = 120, 160
    y, x = np.mgrid[:height, :width]
    data = tf.constant(encode(np.stack([y, x, 0 * x], -1).astype(np.uint8)))
    crop = graph(CROP, 64)
    areas, centres = [], []
    for seed in seeds(200):
        pixels = crop(data, seed).numpy().astype(float)
        rows = np.polyfit(np.arange(8, 56), pixels[8:56, 32, 0], 1)[0] * 64
        columns = np.polyfit(np.arange(8, 56), pixels[32, 8:56, 1], 1)[0] * 64
        areas.append(rows * columns / (height * width))
        assert 0.73 <= columns / rows <= 1.36
        centres.append((pixels[..., 0].mean() / height, pixels[..., 1].mean() / width))
    assert 0.58 < min(areas) < 0.65
    assert 0.9 < max(areas) <= 1.01
    assert np.abs(np.mean(centres, 0) - 0.5).max() < 0.02
    assert np.std(centres, 0).min() > 0.02


def test_fused_jpeg_crop_is_the_crop_of_the_png():
    data = encode(noise(90, 130), "JPEG", quality=95)
    with Image.open(io.BytesIO(data)) as image:
        decoded = encode(np.asarray(image))
    for augmentation in (CROP, GOOGLE):
        crop = graph(augmentation, 40)
        for seed in seeds(10):
            fused, full = (crop(tf.constant(some), seed).numpy().astype(int) for some in (data, decoded))
            assert np.abs(fused - full).mean() < 2.5


def test_flips_half_of_the_images_and_moves_nothing_else():
    data = tf.constant(encode(noise(20, 20)))
    plain, mirrored = graph(CROP), graph(Augmentation(brightness=0.0, saturation=None))
    flipped = 0
    for seed in seeds(200):
        a, b = plain(data, seed).numpy(), mirrored(data, seed).numpy()
        flipped += int(np.array_equal(b, a[:, ::-1]))
        assert np.array_equal(b, a[:, ::-1]) or np.array_equal(b, a)
    assert 70 < flipped < 130  # 100, deviation 7


def test_brightness_shifts_all_channels():
    data = tf.constant(encode(np.full((20, 20, 3), 128, np.uint8)))
    shifts = []
    make = graph(Augmentation(saturation=None))
    for seed in seeds(200):
        pixels = make(data, seed).numpy()
        assert len(np.unique(pixels)) == 1
        shifts.append(int(pixels[0, 0, 0]) - 128)
    assert -32 <= min(shifts) < -28
    assert 28 < max(shifts) <= 32
    assert abs(np.mean(shifts)) < 4  # 0, deviation 1.3
    white = tf.constant(encode(np.full((20, 20, 3), 250, np.uint8)))
    assert max(make(white, seed).numpy().max() for seed in seeds(20)) == 255


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 1.5, 20.0])
def test_saturation_is_that_of_hsv(factor):
    pixels = np.random.default_rng(0).uniform(0, 1, (30, 30, 3)).astype(np.float32)
    pixels[0, :3] = [[0, 0, 0], [1, 1, 1], [0.3, 0.3, 0.3]]
    wanted = tf.image.adjust_saturation(tf.constant(pixels), factor).numpy()
    np.testing.assert_allclose(saturate(tf.constant(255 * pixels), factor).numpy(), 255 * wanted, atol=2e-3)


def test_saturation_is_drawn_from_its_range():
    data = tf.constant(encode(np.full((20, 20, 3), (200, 150, 100), np.uint8)))  # V = 200, s = 0.5
    make = graph(Augmentation(brightness=0.0))
    factors = [(200 - int(make(data, seed).numpy()[0, 0, 2])) / 100 for seed in seeds(150)]
    assert 0.5 <= min(factors) < 0.56
    assert 1.44 < max(factors) <= 1.5


@pytest.mark.parametrize("degrees", [-90, 90, 180])
def test_rotation_by_right_angles(degrees):
    pixels = noise(17, 17)
    found = rotate(tf.constant(pixels), tf.constant(float(degrees))).numpy().astype(int)
    assert np.abs(found - np.rot90(pixels, degrees // 90)).max() <= 1


def test_rotation_stays_in_its_range():
    """A bright bar through the centre shows the angle."""
    pixels = np.zeros((65, 65, 3), np.uint8)
    pixels[30:35] = 255
    make = graph(Augmentation(area=(0.999, 1.0), flip=False, brightness=0.0, saturation=None, rotation=20.0), 65)
    angles = []
    for seed in seeds(60):
        y, x = np.nonzero(make(tf.constant(encode(pixels)), seed).numpy()[..., 0] > 128)
        near = np.hypot(y - 32, x - 32) < 24
        angles.append(-np.degrees(np.arctan(np.polyfit(x[near], y[near], 1)[0])))
    assert -21 < min(angles) < -14
    assert 14 < max(angles) < 21


@pytest.mark.parametrize("shape", [(30, 50), (50, 31), (1, 1)])
def test_stored_pixels_give_what_a_png_gives(shape):
    """PPM, of which only the crop is read, for every geometry and for crops of all places."""
    pixels = noise(*shape)
    stored = tf.constant(prepare(encode(pixels), image_format="PPM").data)
    png = tf.constant(encode(pixels))
    for geometry in ("crop", "squash"):
        np.testing.assert_array_equal(plain_image(stored, 24, geometry), plain_image(png, 24, geometry))
    make = graph(GOOGLE)
    for seed in seeds(20):
        np.testing.assert_array_equal(make(stored, seed), make(png, seed))


def grey_jpeg():
    return encode(noise(20, 30)[..., 0], "JPEG")


def cmyk_jpeg():
    out = io.BytesIO()
    Image.fromarray(noise(20, 30)).convert("CMYK").save(out, "JPEG", quality=95)
    return out.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        grey_jpeg(),
        cmyk_jpeg(),
        encode(noise(20, 30), "GIF"),
        encode(noise(20, 30), "BMP"),
        encode(noise(20, 30), "PNG"),
    ],
    ids=["grey", "CMYK", "GIF", "BMP", "PNG"],
)
def test_other_formats(data):
    with Image.open(io.BytesIO(data)) as image:
        wanted = np.asarray(image.convert("RGB")).astype(int)
    found = plain_image(tf.constant(data), 20, "squash").numpy().astype(int)
    assert np.abs(found - reference_resize(wanted, 20)).mean() < 8
    assert graph(Augmentation())(tf.constant(data), seeds(1)[0]).shape == (16, 16, 3)
