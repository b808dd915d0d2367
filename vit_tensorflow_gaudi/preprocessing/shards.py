"""Writing and verifying one shard: what each process of preprocess_imagenet.py does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import tensorflow as tf

from common.shards import record_spans
from preprocessing.images import BadImageError, prepare, size
from preprocessing.sources import Picture

Value = Union[bytes, int]
REQUIRED = (
    "image/height", "image/width", "image/colorspace", "image/channels", "image/class/label", "image/class/synset",
    "image/format", "image/filename", "image/encoded",
)  # fmt: skip


class Job(NamedTuple):
    """A shard to be made: its images with their labels from 1, and how to store them."""

    path: Path
    pictures: Sequence[Picture]
    labels: Sequence[int]
    short_side: Optional[int] = None
    image_format: str = "JPEG"
    quality: int = 100


class Made(NamedTuple):
    """What became of a job: images written, and (name, reason) of those left out."""

    written: int
    bad: List[Tuple[str, str]]


def chunks(count: int, shards: int) -> List[Tuple[int, int]]:
    """Bounds of each shard's images: ceil(count / shards) in all but the last; ValueError if one would be empty."""
    each = -(-count // shards)
    if each * (shards - 1) >= count:
        raise ValueError(f"{count} images do not fill {shards} shards of {each}")
    return [(start, min(start + each, count)) for start in range(0, count, each)]


def write_shard(job: Job) -> Made:
    """Write a shard; it appears under its name when it is complete and on the disk, or not at all."""
    temporary = job.path.with_name(f".{job.path.name}.{os.getpid()}.tmp")
    bad: List[Tuple[str, str]] = []
    written = 0
    try:
        with tf.io.TFRecordWriter(str(temporary)) as writer:
            for picture, label in zip(job.pictures, job.labels):
                try:
                    record = _example(picture, label, job)
                except BadImageError as error:
                    bad.append((f"{picture.synset}/{picture.name}", str(error)))
                    continue
                writer.write(record)
                written += 1
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, job.path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return Made(written, bad)


def _example(picture: Picture, label: int, job: Job) -> bytes:
    with open(picture.path, "rb") as file:
        file.seek(picture.offset)
        data = file.read(picture.size)
    image = prepare(data, job.short_side, job.image_format, job.quality)
    features: Dict[str, Value] = {
        "image/height": image.height,
        "image/width": image.width,
        "image/colorspace": b"RGB",
        "image/channels": 3,
        "image/class/label": label,
        "image/class/synset": picture.synset.encode(),
        "image/format": image.format.encode(),
        "image/filename": picture.name.encode(),
        "image/encoded": image.data,
    }
    example = tf.train.Example(features=tf.train.Features(feature={k: _feature(v) for k, v in features.items()}))
    return bytes(example.SerializeToString(deterministic=True))


def _feature(value: Value) -> tf.train.Feature:
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))


def verify_shard(path: Path, classes: int) -> Tuple[int, List[str]]:
    """Records in a shard and what is wrong with it: checksums, features, labels, image headers and sizes."""
    count, problems = 0, []
    try:
        if not sum(1 for _ in record_spans(path)):
            return 0, [f"{path.name} is empty"]
        for record in tf.data.TFRecordDataset(str(path)):
            problem = _wrong_with(record.numpy(), classes)
            if problem:
                problems.append(f"{path.name} record {count}: {problem}")
            count += 1
    except (OSError, ValueError) as error:
        problems.append(f"{path.name} is cut short ({error})")
    except tf.errors.OpError as error:  # DataLossError
        problems.append(f"{path.name} is damaged after {count} records ({error.message.split('{{')[0].strip()[:80]})")
    return count, problems


def _wrong_with(record: bytes, classes: int) -> str:
    features = tf.train.Example.FromString(record).features.feature
    missing = [name for name in REQUIRED if name not in features]
    if missing:
        return f"no {missing[0]}"
    label = features["image/class/label"].int64_list.value[0]
    if not 1 <= label <= classes:
        return f"label {label} outside 1 to {classes}"
    try:
        found = size(features["image/encoded"].bytes_list.value[0])
    except BadImageError as error:
        return f"image {error}"
    stated = tuple(features[name].int64_list.value[0] for name in REQUIRED[:2])
    return "" if stated == found else f"height and width {found}, but {stated} stated"
