"""How many images per second and core does the TensorFlow app's input pipeline give? Against a plain tf.data map.

    .venv/tensorflow/bin/python benchmarks/keras_input_pipeline.py                    # 224 pixels, some minutes
    .venv/tensorflow/bin/python benchmarks/keras_input_pipeline.py --image-size 384 --json results.json

The plain side is what one writes first: TFRecordDataset → shuffle → parse → decode_jpeg → random crop → resize → flip →
[-1, 1], mapped in parallel, batched and prefetched; colours by tf.image. Both sides read shards that
preprocess_imagenet.py has made of the same 500 x 375 JPEGs of about 110 KB (noise over gradients), and draw the same
kinds of crops. The app gives uint8, which the training step normalises; `float32` gives what the plain side gives.
`short side` and `PPM` are shards made with --short_side 256 and --image_format PPM, the plain side staying with JPEGs.
Figures are process CPU time, so of one core; sides take turns, and ratios are taken turn by turn.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "vit_tensorflow_gaudi"))

import numpy as np
import tensorflow as tf
from PIL import Image

from dataset import GOOGLE, INCEPTION, Augmentation, training_dataset
from preprocess_imagenet import main as preprocess

CROP = Augmentation(brightness=0.0, saturation=None)
WHAT = {"crop 0.6-1": CROP, "crop 0.05-1": GOOGLE, "crop 0.6-1, colours": INCEPTION}
STORED = {
    "jpeg": [],
    "short side": ["--short_side", "256"],
    "PPM": ["--image_format", "PPM"],
    "PPM, short side": ["--image_format", "PPM", "--short_side", "256"],
}
Pair = Tuple[Callable[[], tf.data.Dataset], Callable[[], tf.data.Dataset]]


def make_images(folder: Path, count: int) -> float:
    """Write `count` JPEGs as a class folder and return their mean size in bytes."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:375, :500]
    (folder / "train/n00000001").mkdir(parents=True)
    sizes = []
    for number in range(count):
        waves = [np.sin(x / random.uniform(20, 90)) + np.cos(y / random.uniform(20, 90)) for _ in range(3)]
        coarse = Image.fromarray(np.clip(random.normal(128, 40, (94, 125, 3)), 0, 255).astype(np.uint8))
        texture = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)).astype(float)
        pixels = texture + 55 * np.stack(waves, -1) + random.normal(0, 12, (375, 500, 3))
        out = io.BytesIO()
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=92)
        (folder / f"train/n00000001/n00000001_{number}.JPEG").write_bytes(out.getvalue())
        sizes.append(len(out.getvalue()))
    return statistics.mean(sizes)


def plain(folder: Path, how: Augmentation, args: argparse.Namespace) -> tf.data.Dataset:
    """Return the pipeline that one writes first."""
    features = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/class/label": tf.io.FixedLenFeature([], tf.int64),
    }

    def load(record: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
        parsed = tf.io.parse_single_example(record, features)
        image = tf.io.decode_jpeg(parsed["image/encoded"], channels=3)
        begin, extent, _ = tf.image.sample_distorted_bounding_box(
            tf.shape(image), tf.zeros([1, 0, 4]), 0, how.area[0], how.aspect, how.area, 100, True
        )
        image = tf.image.resize(tf.slice(image, begin, extent), [args.image_size] * 2) / 255
        image = tf.image.random_flip_left_right(image)
        if how.saturation:
            image = tf.image.random_brightness(image, how.brightness)
            image = tf.image.random_saturation(image, *how.saturation)
            image = tf.clip_by_value(image, 0, 1)
        return image * 2 - 1, parsed["image/class/label"] - 1

    files = tf.io.gfile.glob(str(folder / "train/train-*-of-*"))
    records = tf.data.TFRecordDataset(sorted(files)).shuffle(args.images // 4).repeat()
    return records.map(load, num_parallel_calls=tf.data.AUTOTUNE).batch(args.batch).prefetch(2)


def app(folder: Path, how: Augmentation, args: argparse.Namespace, dtype: tf.DType = tf.uint8) -> tf.data.Dataset:
    """Return the app's pipeline."""
    return training_dataset(
        folder,
        image_size=args.image_size,
        batch_size=args.batch,
        seed=0,
        augment=how,
        dtype=dtype,
        threads=args.threads,
    )


def cpu_per_image(make: Callable[[], tf.data.Dataset], args: argparse.Namespace) -> float:
    """Seconds of CPU per image of a pipeline that has got going; it ends with this call, and so do its threads."""
    batches = iter(make())
    for _ in range(args.warm_up):
        next(batches)
    start = time.process_time()
    for _ in range(args.batches):
        next(batches)
    seconds = (time.process_time() - start) / (args.batches * args.batch)
    del batches
    gc.collect()
    return seconds


def measure(pair: Pair, args: argparse.Namespace) -> Dict[str, Any]:
    """Images per second and core of (app, plain), and the ratio, from turns A B B A."""
    times: List[List[float]] = [[], []]
    for turn in range(args.repeats):
        for side in (0, 1) if turn % 2 == 0 else (1, 0):
            times[side].append(cpu_per_image(pair[side], args))
    ratios = [there / here for here, there in zip(*times)]
    quartiles = statistics.quantiles(ratios, n=4)
    return {
        "app_images_per_second_and_core": 1 / statistics.median(times[0]),
        "plain_images_per_second_and_core": 1 / statistics.median(times[1]),
        "ratio": statistics.median(ratios),
        "ratio_quartiles": [quartiles[0], quartiles[2]],
    }


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in (
        ("image-size", 224),
        ("images", 512),
        ("batch", 32),
        ("batches", 16),
        ("warm-up", 3),
        ("repeats", 8),
        ("threads", 1),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--json", type=Path, help="also write settings, versions and results here")
    return parser.parse_args()


def main() -> None:
    """Run the comparisons and print them."""
    args = parse_arguments()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    results: Dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        mean = make_images(root / "raw", args.images)
        for name, flags in STORED.items():
            words = [f"--raw_data_dir={root / 'raw'}", f"--local_scratch_dir={root / name}", "--splits", "train"]
            preprocess([*words, "--train_shards", "4", "--workers", "1", *flags])
        cases: List[Tuple[str, Augmentation, str, tf.DType]] = [
            (name, how, "jpeg", tf.uint8) for name, how in WHAT.items()
        ]
        cases += [("crop 0.6-1, float32", CROP, "jpeg", tf.float32)]
        cases += [(f"crop 0.6-1, {stored}", CROP, stored, tf.uint8) for stored in list(STORED)[1:]]
        for name, how, stored, dtype in cases:
            pair = (
                lambda how=how, stored=stored, dtype=dtype: app(root / stored, how, args, dtype),
                lambda how=how: plain(root / "jpeg", how, args),
            )
            row = results[name] = measure(pair, args)
            low, high = row["ratio_quartiles"]
            print(
                f"{name:>27}: app {row['app_images_per_second_and_core']:.0f}, "
                f"plain {row['plain_images_per_second_and_core']:.0f} images/s per core, "
                f"ratio {row['ratio']:.2f} (quartiles {low:.2f}-{high:.2f})",
                flush=True,
            )
    settings = {name: value for name, value in vars(args).items() if name != "json"}
    versions = {"tensorflow": tf.__version__, "python": platform.python_version()}
    print(
        ", ".join(f"{name} {value}" for name, value in {**settings, **versions}.items()), f"JPEGs of {mean:.0f} bytes"
    )
    if args.json:
        content = {"settings": {**settings, "mean_jpeg_bytes": mean}, "versions": versions, "results": results}
        args.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
