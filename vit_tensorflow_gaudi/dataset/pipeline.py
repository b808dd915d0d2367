"""The tf.data pipelines: order → reads → decode and augment in parallel → batches, each a function of the step alone.

Shape letters: B batch of this worker, c rows of a chunk, S image side.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable, Optional, Tuple, Union

import tensorflow as tf

from dataset.augmentation import INCEPTION, Augmentation, plain_image, training_image
from dataset.bad_images import DEFAULT_RATIO, BadImages
from dataset.index import Index
from dataset.info import open_subset
from dataset.order import EvaluationOrder, TrainingOrder
from dataset.source import MAX_BAD_IN_A_ROW, Source

_CHUNK = 32  # images that one thread decodes in a row, at most; a chunk costs about 0.5 ms besides
_READS_AHEAD = 4

Decode = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def training_dataset(
    folder: Union[str, Path],
    *,
    image_size: int,
    batch_size: int,
    seed: int,
    shard: Tuple[int, int] = (0, 1),
    start_step: int = 0,
    subset: str = "train/train",
    augment: Union[bool, Augmentation] = True,
    dtype: tf.DType = tf.uint8,
    threads: Optional[int] = None,
    bad_images: Union[str, Path, None] = None,
    bad_image_ratio: float = DEFAULT_RATIO,
) -> tf.data.Dataset:
    """Endless batches of (images (B, S, S, 3), labels (B,) int32 from 0), from step `start_step` on.

    A batch is a function of (seed, step, shard) alone: of the epoch's permutation of all samples, worker i of n takes
    the i-th part of every global batch, and augmentation is drawn from (seed, epoch, sample). A sample that cannot be
    decoded is listed and replaced, label and all, by the next good one.

    Args:
        folder: with the shards `folder/subset-*`.
        image_size: S.
        batch_size: B, of one worker.
        seed: of order and augmentation.
        shard: (this worker, number of workers).
        start_step: batches that were taken before.
        subset: folder and first letters of the shards.
        augment: how; True is INCEPTION, False resizes the whole image.
        dtype: uint8 in 0 … 255, or a floating type in [-1, 1].
        threads: that decode; None takes this worker's part of the cores.
        bad_images: file that lists what cannot be decoded; None: one in the temporary folder.
        bad_image_ratio: share of the samples that may be bad before the run stops.

    Raises:
        UserError: shards are missing or damaged, labels out of range, or fewer samples than a global batch.
    """
    index = open_subset(Path(folder), subset)
    order = TrainingOrder(len(index.entries), batch_size, seed, shard)
    how = INCEPTION if augment is True else augment

    def decode(data: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        if isinstance(how, Augmentation):
            return training_image(data, key, image_size, how)
        return plain_image(data, image_size, "squash")

    source = Source(index, order.rows, _bad_images(index, bad_images, bad_image_ratio), seed)
    steps = (start_step, 2**62 // batch_size)
    return _batches(source, steps, decode, (batch_size, image_size), dtype, threads or _share_of_cores(shard[1]))


def evaluation_dataset(
    folder: Union[str, Path],
    *,
    image_size: int,
    batch_size: int,
    shard: Tuple[int, int] = (0, 1),
    subset: str = "validation/validation",
    geometry: str = "crop",
    dtype: tf.DType = tf.uint8,
    threads: Optional[int] = None,
    bad_images: Union[str, Path, None] = None,
    bad_image_ratio: float = DEFAULT_RATIO,
) -> tf.data.Dataset:
    """Batches of (images (B, S, S, 3), labels (B,) int32) with each sample once over all workers, in order.

    All workers make equally many batches; what fills the last ones up is labelled -1 and not to be counted. Arguments
    as in `training_dataset`; `geometry` is "crop" (the shorter side to S, central S x S) or "squash" (all to S x S).

    Raises:
        UserError: shards are missing or damaged, or labels out of range.
    """
    assert geometry in ("crop", "squash")
    index = open_subset(Path(folder), subset)
    order = EvaluationOrder(len(index.entries), batch_size, shard)

    def decode(data: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        del key
        return plain_image(data, image_size, geometry)

    source = Source(index, order.rows, _bad_images(index, bad_images, bad_image_ratio))
    steps = (0, order.steps)
    return _batches(source, steps, decode, (batch_size, image_size), dtype, threads or _share_of_cores(shard[1]))


def _bad_images(index: Index, path: Union[str, Path, None], ratio: float) -> BadImages:
    return BadImages(path, len(index.entries), ratio, [shard.name for shard in index.files])


def _share_of_cores(workers: int) -> int:
    # A launcher that binds its processes has already dealt out the cores.
    cores = len(os.sched_getaffinity(0))
    return max(1, cores // workers if cores == os.cpu_count() else cores)


def _batches(
    source: Source, steps: Tuple[int, int], decode: Decode, shape: Tuple[int, int], dtype: tf.DType, threads: int
) -> tf.data.Dataset:
    """The steps from `steps[0]` to before `steps[1]`, decoded by `threads` threads, in order."""
    batch_size, size = shape
    rows = next(count for count in range(min(_CHUNK, batch_size), 0, -1) if batch_size % count == 0)
    parts = batch_size // rows

    def read(number: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        outputs = tf.numpy_function(
            lambda chunk: source.chunk(chunk, rows, parts), [number], (tf.string, tf.int32, tf.int64)
        )
        for tensor, form in zip(outputs, ([rows], [rows], [rows, 2])):
            tensor.set_shape(form)
        return tuple(outputs)

    def finish(images: tf.Tensor, labels: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
        images = tf.reshape(images, [batch_size, size, size, 3])  # (B/c, c, S, S, 3) -> (B, S, S, 3)
        if dtype != tf.uint8:
            images = tf.cast(tf.cast(images, tf.float32) / 127.5 - 1.0, dtype)
        return images, tf.reshape(labels, [batch_size])

    chunks = tf.data.Dataset.range(steps[0] * parts, steps[1] * parts)
    dataset = chunks.map(read, num_parallel_calls=_READS_AHEAD, deterministic=True).interleave(
        lambda *chunk: _decoded(source, decode, rows, *chunk),
        cycle_length=threads,
        block_length=1,
        num_parallel_calls=threads,
        deterministic=True,
    )
    if parts > 1:
        dataset = dataset.batch(parts, drop_remainder=True)
    if parts > 1 or dtype != tf.uint8:
        dataset = dataset.map(finish, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return dataset.prefetch(tf.data.AUTOTUNE).with_options(_options())


def _options() -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    options.threading.max_intra_op_parallelism = 1  # images are decoded side by side
    return options


def _decoded(
    source: Source, decode: Decode, rows: int, images: tf.Tensor, labels: tf.Tensor, keys: tf.Tensor
) -> tf.data.Dataset:
    """One element: the chunk as (c, S, S, 3) uint8 and (c,) labels.

    A graph cannot catch an error, but a data set can drop the element that raised it. So the chunk is decoded straight
    through, and where that leaves fewer rows than `rows`, hence no full batch, once more row by row.
    """
    chunk = tf.data.Dataset.from_tensor_slices((images, labels, keys))
    quick = _ignore_errors(chunk.map(lambda data, label, key: (decode(data, key), label)))
    careful = chunk.flat_map(lambda _, label, key: _first_good(source, decode, label, key))
    return quick.batch(rows, drop_remainder=True).concatenate(careful.batch(rows, drop_remainder=True)).take(1)


def _first_good(source: Source, decode: Decode, label: tf.Tensor, key: tf.Tensor) -> tf.data.Dataset:
    """One element: the sample of `key`, or the first good one after it; the bad ones are listed."""

    def attempt(offset: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        data, found = tf.numpy_function(source.candidate, [key[1], offset], (tf.string, tf.int32))
        return decode(tf.ensure_shape(data, []), key), tf.where(label < 0, label, tf.ensure_shape(found, [])), offset

    def report(image: tf.Tensor, found: tf.Tensor, offset: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
        listed = tf.numpy_function(source.replaced, [key[1], offset], tf.int64)
        with tf.control_dependencies([listed]):
            return image, tf.identity(found)

    def give_up(offset: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        stopped = tf.numpy_function(source.none_good, [key[1]], tf.int64)
        with tf.control_dependencies([stopped]):
            return decode(tf.constant(b""), key), label, offset

    good = _ignore_errors(tf.data.Dataset.range(MAX_BAD_IN_A_ROW).map(attempt))
    return good.concatenate(tf.data.Dataset.range(1).map(give_up)).take(1).map(report)


def _ignore_errors(dataset: tf.data.Dataset) -> tf.data.Dataset:
    if hasattr(dataset, "ignore_errors"):  # from TensorFlow 2.11 on
        return dataset.ignore_errors()
    return dataset.apply(tf.data.experimental.ignore_errors())
