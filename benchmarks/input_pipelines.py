"""Images per second and core of the apps' input pipelines, in turn with what one writes first.

    python -m benchmarks.input_pipelines jpeg       # JPEG class folders, against torchvision's ImageFolder
    python -m benchmarks.input_pipelines packed     # the Swin app's packed pixels, against the same
    .venv/tensorflow/bin/python -m benchmarks.input_pipelines keras     # TFRecords, against a plain tf.data map

All get the same made-up photographs, 500 x 375 JPEGs of about 110 KB as in ImageNet: noise whose spectrum falls as that
of natural images does, translucent triangles with sharp edges, and grain; quality 94, colours at half the resolution.
Each gives random crops of 8 to 100 % (Keras app: 60 to 100 %, its default) of the area in 224 x 224 pixels, half of
them mirrored. The plain sides normalise to floats, as their users do; the apps leave that to the device.

Times are process CPU time of one thread, so img/s are those of a core. A turn is a few hundred images; ratios (plain /
this, above 1: faster) are taken turn by turn.
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
from functools import partial
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

import numpy as np
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "torchvision", "pillow", "simplejpeg", "tensorflow-cpu")
SIZE = 224  # of what the pipelines give
BATCH, BATCHES = 32, 8  # of a turn of tf.data, after some more that get it going
STORED = {
    "JPEG as it is": [],
    "--short_side 256": ["--short_side", "256"],
    "--image_format PPM": ["--image_format", "PPM"],
    "both": ["--short_side", "256", "--image_format", "PPM"],
}


class Contender(NamedTuple):
    """A pipeline: what gives the CPU seconds per image of a turn, and its bytes on disk per image."""

    turn: Callable[[], float]
    bytes_per_image: float


def photograph(random: np.random.Generator, width: int, height: int) -> Image.Image:
    """A made-up photograph."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]).clip(1 / max(width, height))

    def noise(slope: float) -> np.ndarray:
        phases = random.normal(size=(2, *frequency.shape))
        pixels = np.fft.irfft2((phases[0] + 1j * phases[1]) / frequency**slope, (height, width))
        return (pixels / pixels.std())[:, :, None]

    warm, green = np.array([1, -0.3, -0.6]), np.array([-0.5, 0.2, 1])
    pixels = 120 + 45 * noise(random.uniform(1, 1.3)) + 18 * noise(1.5) * warm + 18 * noise(1.5) * green
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image, "RGBA")
    for _ in range(8):
        corners = random.uniform(size=(3, 2)) * (width, height)
        draw.polygon([tuple(corner) for corner in corners.tolist()], fill=(*random.integers(0, 256, 3).tolist(), 90))
    grain = random.normal(0, 2.5, (height, width, 1))
    return Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8))


def make_images(folder: Path, count: int) -> float:
    """Write `count` JPEGs in four class folders below `folder`/train, a quarter of them upright; mean size in bytes."""
    random = np.random.default_rng(0)
    sizes = []
    for number in range(count):
        shape = (375, 500) if number % 4 == 0 else (500, 375)
        out = io.BytesIO()
        photograph(random, *shape).save(out, "JPEG", quality=94)
        path = folder / f"train/n{number % 4 + 1:08d}/{number}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(out.getvalue())
        sizes.append(len(out.getvalue()))
    return statistics.mean(sizes)


def torch_contenders(raw: Path, packed: Path, kind: str, size: float) -> Dict[str, Contender]:
    """Pipelines of images as tensors; the plain one first. The apps share theirs, but for the packed pixels."""
    sys.path.insert(0, str(ROOT / "swin_pytorch_ipu"))
    import torch
    from torchvision import transforms
    from torchvision.datasets import ImageFolder
    from torchvision.io import ImageReadMode, decode_jpeg, read_file

    import run.images
    from dataset.images import ImageDataset, open_source
    from dataset.pack import main as pack
    from dataset.sources import open_images
    from dataset.transforms import TrainTransform

    torch.set_num_threads(1)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    first = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip()]
    plain = ImageFolder(
        str(raw / "train"), transforms.Compose([*first, transforms.ToTensor(), transforms.Normalize(mean, std)])
    )
    ours = ImageDataset(open_source("folder", str(raw), "train"), TrainTransform(SIZE, 0.08, True, False))

    def timed(load: Callable[[int], Any]) -> Callable[[], float]:
        def turn() -> float:
            start = time.process_time()
            for index in range(len(plain)):
                load(index)
            return (time.process_time() - start) / len(plain)

        return turn

    def without(load: Callable[[], float]) -> float:
        before, run.images.HAS_PARTS = run.images.HAS_PARTS, False
        seconds = load()
        run.images.HAS_PARTS = before
        return seconds

    found = {"torchvision's ImageFolder": Contender(timed(plain.__getitem__), size)}
    if kind == "packed":
        pack(["--data-path", str(raw), "--output", str(packed), "--splits", "train", "--num-workers", "0"])
        pixels = ImageDataset(open_images(str(packed), "packed", "train"), TrainTransform(SIZE, 0.08, True, False))
        return {**found, "packed at 256 pixels": Contender(timed(pixels.__getitem__), 3 * 256**2)}
    decoding = timed(lambda index: decode_jpeg(read_file(plain.samples[index][0]), ImageReadMode.RGB))
    return {
        **found,
        "the apps": Contender(timed(ours.__getitem__), size),
        "the apps, without simplejpeg": Contender(partial(without, timed(ours.__getitem__)), size),
        "(torchvision's decode_jpeg alone)": Contender(decoding, size),
    }


def keras_contenders(raw: Path, records: Path, size: float, count: int) -> Dict[str, Contender]:
    """Pipelines of the TensorFlow app over shards of several kinds; a plain map over JPEGs first."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.path.insert(0, str(ROOT / "vit_tensorflow_gaudi"))
    import tensorflow as tf

    from dataset import Augmentation, training_dataset
    from preprocess_imagenet import main as preprocess

    tf.config.threading.set_intra_op_parallelism_threads(1)
    crop = Augmentation(brightness=0.0, saturation=None)
    features = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/class/label": tf.io.FixedLenFeature([], tf.int64),
    }

    def plain(record: Any) -> Tuple[Any, Any]:
        parsed = tf.io.parse_single_example(record, features)
        image = tf.io.decode_jpeg(parsed["image/encoded"], channels=3)
        begin, extent, _ = tf.image.sample_distorted_bounding_box(
            tf.shape(image), tf.zeros([1, 0, 4]), 0, crop.area[0], crop.aspect, crop.area, 100, True
        )
        image = tf.image.resize(tf.slice(image, begin, extent), [SIZE, SIZE])
        return tf.image.random_flip_left_right(image) / 127.5 - 1, parsed["image/class/label"] - 1

    def decoded(record: Any) -> Any:
        return tf.shape(tf.io.decode_jpeg(tf.io.parse_single_example(record, features)["image/encoded"], channels=3))

    def mapped(step: Callable[[Any], Any]) -> Any:
        files = sorted(map(str, (records / "JPEG as it is/train").glob("train-*-of-*")))
        examples = tf.data.TFRecordDataset(files).shuffle(count // 4).repeat()
        return examples.map(step, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH).prefetch(2)

    def app(folder: Path) -> Any:
        return training_dataset(folder, image_size=SIZE, batch_size=BATCH, seed=0, augment=crop, threads=1)

    found = {"plain map": Contender(partial(batches_turn, partial(mapped, plain)), size)}
    for name, flags in STORED.items():
        words = [f"--raw_data_dir={raw}", f"--local_scratch_dir={records / name}", "--splits", "train"]
        preprocess([*words, "--train_shards", "4", "--workers", "1", *flags])
        stored = sum(path.stat().st_size for path in (records / name / "train").glob("train-*-of-*")) / count
        found[f"the app, {name}"] = Contender(partial(batches_turn, partial(app, records / name)), stored)
    found["(decode_jpeg alone)"] = Contender(partial(batches_turn, partial(mapped, decoded)), size)
    return found


def batches_turn(make: Callable[[], Any]) -> float:
    """CPU seconds per image of a tf.data set that has got going; it ends with this call, and so do its threads."""
    batches = iter(make())
    for _ in range(3):
        next(batches)
    start = time.process_time()
    for _ in range(BATCHES):
        next(batches)
    seconds = (time.process_time() - start) / (BATCHES * BATCH)
    del batches
    gc.collect()
    return seconds


def measure(contenders: Dict[str, Contender], repeats: int) -> Dict[str, Any]:
    """Medians and ratios to the first contender, from turns A B C, C B A, … after one that is not counted."""
    taken: Dict[str, List[float]] = {name: [] for name in contenders}
    for repeat in range(repeats + 1):
        for name in contenders if repeat % 2 == 0 else reversed(contenders):
            seconds = contenders[name].turn()
            if repeat:
                taken[name].append(seconds)
    plain = next(iter(taken.values()))
    rows: Dict[str, Any] = {}
    for name, mine in taken.items():
        ratios = [there / here for there, here in zip(plain, mine)]
        rows[name] = {
            "cpu_ms_per_image": 1e3 * statistics.median(mine),
            "images_per_second_and_core": 1 / statistics.median(mine),
            "ratio": statistics.median(ratios),
            "ratio_quartiles": statistics.quantiles(ratios, n=4)[::2],
            "kilobytes_per_image": contenders[name].bytes_per_image / 1e3,
        }
    return rows


def table(rows: Dict[str, Any]) -> str:
    """Markdown."""
    lines = ["| | KB/image | CPU ms/image | img/s per core | plain / this (quartiles) |", "|---|---|---|---|---|"]
    for name, row in rows.items():
        low, high = row["ratio_quartiles"]
        times = f"{row['cpu_ms_per_image']:.2f} | {row['images_per_second_and_core']:.0f}"
        lines.append(
            f"| {name} | {row['kilobytes_per_image']:.0f} | {times} | {row['ratio']:.2f} ({low:.2f}–{high:.2f}) |"
        )
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=("jpeg", "packed", "keras"))
    parser.add_argument("--images", type=int, default=200, help="default 200")
    parser.add_argument("--repeats", type=int, default=11, help="default 11")
    parser.add_argument("--json", type=Path, help="also write settings, versions and results here")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as temporary:
        raw, made = Path(temporary, "raw"), Path(temporary, "made")
        size = make_images(raw, args.images)
        if args.kind == "keras":
            contenders = keras_contenders(raw, made, size, args.images)
        else:
            contenders = torch_contenders(raw, made, args.kind, size)
        rows = measure(contenders, args.repeats)
    print(table(rows))
    versions = {name: version(name) for name in PACKAGES if any(distributions(name=name))}
    settings = {"kind": args.kind, "images": args.images, "repeats": args.repeats, "python": platform.python_version()}
    print(", ".join(f"{name} {value}" for name, value in {**settings, **versions}.items()))
    if args.json:
        args.json.write_text(json.dumps({"settings": {**settings, **versions}, "results": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
