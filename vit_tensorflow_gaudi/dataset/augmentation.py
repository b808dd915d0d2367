"""From an encoded image to uint8 pixels, inside the graph: fused decode and crop, resize, flip, colours.

Every random choice is a stateless draw from a seed that belongs to the sample, so an image is the same whichever
thread, worker or order prepares it. Shape letters: S side of the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Optional, Tuple

import tensorflow as tf

PPM_MAGIC = b"P6\n"
PPM_HEADER = PPM_MAGIC + b"%05d %05d 255\n"  # width and height; then RGB pixels, row by row

Box = Callable[[tf.Tensor], tf.Tensor]  # shape (H, W, ...) -> (top, left, rows, columns)


@dataclass(frozen=True)
class Augmentation:
    """What is drawn anew for every image and epoch.

    area        share of the image that the crop covers, uniform
    aspect      width / height of the crop, uniform
    flip        mirror every second image
    brightness  largest shift of all channels, as a share of the range
    saturation  factors of the saturation in HSV, uniform; None leaves it
    rotation    largest angle in degrees, either way; corners are filled by reflection
    """

    area: Tuple[float, float] = (0.6, 1.0)
    aspect: Tuple[float, float] = (0.75, 1.33)
    flip: bool = True
    brightness: float = 32 / 255
    saturation: Optional[Tuple[float, float]] = (0.5, 1.5)
    rotation: float = 0.0


INCEPTION = Augmentation()  # crop, flip and "fast" colours of Inception's preprocessing
GOOGLE = Augmentation(
    area=(0.05, 1.0), aspect=(0.75, 4 / 3), brightness=0.0, saturation=None
)  # Dosovitskiy et al. 2021


def training_image(data: tf.Tensor, seed: tf.Tensor, size: int, augmentation: Augmentation) -> tf.Tensor:
    """Encoded image and its seed (2,) int64 -> (S, S, 3) uint8.

    JPEGs are decoded fast, chroma by repetition, and only where the crop is: pixels are off by a level or two.
    """

    def box(shape: tf.Tensor) -> tf.Tensor:
        begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
            shape,
            bounding_boxes=tf.zeros([1, 0, 4]),
            seed=seed,
            min_object_covered=augmentation.area[0],
            aspect_ratio_range=augmentation.aspect,
            area_range=augmentation.area,
            max_attempts=100,
            use_image_if_no_bounding_boxes=True,
        )
        return tf.concat([begin[:2], extent[:2]], 0)

    flip, angle, shift, factor = tf.unstack(tf.random.stateless_uniform([4], seed + tf.constant([1, 0], tf.int64)))
    pixels = _resize(_decode(data, box, fast=True), size)
    if augmentation.brightness or augmentation.saturation:
        pixels = pixels + (2 * shift - 1) * (255 * augmentation.brightness)
        if augmentation.saturation:
            low, high = augmentation.saturation
            pixels = saturate(pixels, low + (high - low) * factor)
        pixels = tf.clip_by_value(pixels, 0.0, 255.0)
    image = _to_uint8(pixels)
    if augmentation.rotation:
        image = rotate(image, (2 * angle - 1) * augmentation.rotation)
    if augmentation.flip:
        image = tf.cond(flip < 0.5, lambda: tf.reverse(image, [1]), lambda: image)
    return image


def plain_image(data: tf.Tensor, size: int, geometry: str) -> tf.Tensor:
    """Encoded image -> (S, S, 3) uint8, nothing random.

    "crop" takes the largest central square, "squash" the whole image; either is resized to S x S.
    """

    def box(shape: tf.Tensor) -> tf.Tensor:
        height, width = shape[0], shape[1]
        side = tf.minimum(height, width)
        if geometry == "crop":
            return tf.stack([(height - side) // 2, (width - side) // 2, side, side])
        return tf.stack([0, 0, height, width])

    return _to_uint8(_resize(_decode(data, box, fast=False), size))


def _decode(data: tf.Tensor, box: Box, fast: bool) -> tf.Tensor:
    """Encoded image -> the part of it that `box` chooses, (rows, columns, 3) uint8."""

    def jpeg() -> tf.Tensor:
        options = (
            {"dct_method": "INTEGER_FAST", "fancy_upscaling": False} if fast else {"dct_method": "INTEGER_ACCURATE"}
        )
        return tf.image.decode_and_crop_jpeg(data, box(tf.io.extract_jpeg_shape(data)), channels=3, **options)

    def other() -> tf.Tensor:
        image = tf.io.decode_image(data, channels=3, expand_animations=False)
        top, left, rows, columns = tf.unstack(box(tf.shape(image)))
        return image[top : top + rows, left : left + columns]

    def pixels() -> tf.Tensor:
        return _crop_pixels(data, box)

    is_ppm = tf.equal(tf.strings.substr(data, 0, len(PPM_MAGIC)), PPM_MAGIC)
    return tf.cond(tf.io.is_jpeg(data), jpeg, lambda: tf.cond(is_ppm, pixels, other))


def _crop_pixels(data: tf.Tensor, box: Box) -> tf.Tensor:
    """The part of a PPM with the header PPM_HEADER that `box` chooses; of the rest not even a copy is made."""
    first = len(PPM_MAGIC)
    width = tf.strings.to_number(tf.strings.substr(data, first, 5), tf.int32)
    height = tf.strings.to_number(tf.strings.substr(data, first + 6, 5), tf.int32)
    top, left, rows, columns = tf.unstack(box(tf.stack([height, width, 3])))
    start = len(PPM_HEADER % (0, 0)) + top * width * 3
    lines = tf.reshape(tf.io.decode_raw(tf.strings.substr(data, start, rows * width * 3), tf.uint8), [rows, width * 3])
    return tf.reshape(tf.slice(lines, [0, 3 * left], [rows, 3 * columns]), [rows, columns, 3])


def _resize(image: tf.Tensor, size: int) -> tf.Tensor:
    """(H, W, 3) uint8 -> (S, S, 3) float32 in 0 … 255, bilinear, not antialiased."""
    # tf.image.resize does the same with half a dozen more ops.
    return tf.raw_ops.ResizeBilinear(images=image[tf.newaxis], size=[size, size], half_pixel_centers=True)[0]


def _to_uint8(pixels: tf.Tensor) -> tf.Tensor:
    return tf.cast(pixels + 0.5, tf.uint8)


def saturate(pixels: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Multiply the saturation in HSV of (S, S, 3) float32 by `factor`: tf.image.adjust_saturation at half its time.

    With V the largest channel and s = (V - smallest) / V, scaling s to min(1, factor * s) at the same hue and V moves
    every channel c to V - (V - c) k, k = min(factor, 1 / s).
    """
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    value = tf.maximum(tf.maximum(red, green), blue)
    spread = value - tf.minimum(tf.minimum(red, green), blue)
    k = tf.minimum(factor, tf.maximum(value, 0.0) / tf.maximum(spread, 1e-6))
    offset = value - value * k
    return offset[..., tf.newaxis] + k[..., tf.newaxis] * pixels


def rotate(image: tf.Tensor, degrees: tf.Tensor) -> tf.Tensor:
    """Turn (S, S, 3) about its centre, counter-clockwise, bilinear, filled by reflection."""
    angle = degrees * 0.017453292519943295
    cos, sin = tf.cos(angle), tf.sin(angle)
    size = image.shape[0]
    centre = (size - 1) / 2
    # Where each pixel of the result comes from: x' = cos x - sin y + x0, y' = sin x + cos y + y0.
    x0 = centre - cos * centre + sin * centre
    y0 = centre - sin * centre - cos * centre
    transform = tf.stack([cos, -sin, x0, sin, cos, y0, 0.0, 0.0])
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[tf.newaxis],
        transforms=transform[tf.newaxis],
        output_shape=[size, size],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )[0]
