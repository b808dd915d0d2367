"""Small data for the tests of shards and pipelines."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
import tensorflow as tf
from PIL import Image

from preprocess_imagenet import main

SHARDS = ["--train_shards", "4", "--validation_shards", "2", "--workers", "1"]


def encode(pixels: np.ndarray, image_format: str = "PNG", **options: Any) -> bytes:
    """(H, W, 3) uint8 -> an image file."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, image_format, **options)
    return out.getvalue()


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours, (H, W, 3) uint8, another picture for every seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def feature(value: Any) -> tf.train.Feature:
    """Bytes, int or float as a feature."""
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    if isinstance(value, int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
    return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))


def example(**features: Any) -> bytes:
    """A serialised tf.train.Example; `_` in a name stands for `/`."""
    named = {f"image/{name}".replace("_", "/"): feature(value) for name, value in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=named)).SerializeToString()


def write_shards(
    folder: Path, split: str, images: Sequence[bytes], shards: int = 3, labels: Optional[Sequence[int]] = None
) -> Path:
    """Shards as others make them, without `dataset_info.json`; labels are 1, 2, 3 … unless given."""
    numbers = list(labels) if labels is not None else list(range(1, len(images) + 1))
    (folder / split).mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(np.array_split(np.arange(len(images)), shards)):
        with tf.io.TFRecordWriter(str(folder / split / f"{split}-{number:05d}-of-{shards:05d}")) as writer:
            for k in part:
                writer.write(example(encoded=images[k], class_label=numbers[k]))
    return folder


def read_shards(folder: Path, split: str) -> List[Dict[str, Any]]:
    """All records of a split, in order, by TensorFlow's own parser."""
    found = []
    for path in sorted((folder / split).glob(f"{split}-*")):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            features = tf.train.Example.FromString(record).features.feature
            kinds = {key: value.WhichOneof("kind") for key, value in features.items()}
            found.append({key: getattr(value, kinds[key]).value[0] for key, value in features.items()})
    return found


def make(source: Path, target: Path, *flags: str) -> Path:
    """Run preprocess_imagenet.py in this process: 4 and 2 shards of `source`."""
    main([f"--raw_data_dir={source}", f"--local_scratch_dir={target}", *SHARDS, *flags])
    return target


def check_shards(folder: Path, *flags: str) -> None:
    """Run preprocess_imagenet.py --verify in this process."""
    main([f"--local_scratch_dir={folder}", "--verify", "--workers", "1", *flags])


def contents(folder: Path) -> Dict[str, bytes]:
    """Bytes of all shards by name."""
    return {
        path.name: path.read_bytes() for split in ("train", "validation") for path in (folder / split).glob("*-of-*")
    }
