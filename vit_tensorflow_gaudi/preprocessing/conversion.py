"""Making and verifying all shards of a data set, in several processes, again and again until it is complete."""

from __future__ import annotations

import hashlib
import json
import random
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import tensorflow as tf
from tqdm import tqdm

from dataset import info
from dataset.bad_images import DEFAULT_RATIO, BadImages
from dataset.index import open_index
from errors import UserError
from preprocessing.shards import Job, chunks, verify_shard, write_shard
from preprocessing.sources import Picture, list_pictures

BAD_IMAGES = "bad_images.txt"
Run = Callable[..., Iterator[Any]]  # like `map`


@dataclass(frozen=True)
class Settings:
    """What decides the content of the shards: the same settings and images give the same bytes."""

    shards: Dict[str, int]
    limit: Optional[int] = None
    seed: int = 0
    short_side: Optional[int] = None
    image_format: str = "JPEG"
    quality: int = 100


@contextmanager
def processes(count: int) -> Iterator[Run]:
    """A `map` over `count` processes; one is this process itself."""
    if count == 1:
        yield map
        return
    # Not fork: TensorFlow has threads.
    executor = ProcessPoolExecutor(count, get_context("spawn"), initializer=_hide_devices)
    try:
        yield executor.map
        executor.shutdown()
    except BrokenProcessPool:
        executor.shutdown()  # its processes have ended; without waiting its semaphores would be reported as left behind
        raise UserError("a process was killed, perhaps for want of memory: run again with fewer --workers") from None
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _hide_devices() -> None:
    tf.config.set_visible_devices([], "GPU")


def convert(raw: Path, target: Path, settings: Settings, run: Run, bad_image_ratio: float = DEFAULT_RATIO) -> None:
    """Make those shards of `target` that are not there yet from the images in `raw`.

    Raises:
        UserError: the raw data are laid out wrong, `target` holds other shards, or too many images are bad.
    """
    pictures, classes = list_pictures(raw, tuple(settings.shards))
    for name in settings.shards:
        split = _Split(
            target, name, ordered(pictures.pop(name), name, settings.seed, settings.limit), classes, settings
        )
        split.begin()
        _write(split, run, BadImages(target / name / BAD_IMAGES, len(split.pictures), bad_image_ratio))
        index = open_index(target, f"{name}/{name}", run)
        content = info.read(target)
        content["splits"][name].update(complete=True, images=len(index.entries))
        info.write(target, content)


def ordered(pictures: Sequence[Picture], split: str, seed: int, limit: Optional[int]) -> List[Picture]:
    """The images in the order of the shards: training shuffled, validation by name; `limit` takes a random part."""
    shuffled = list(range(len(pictures)))
    random.Random(seed).shuffle(shuffled)
    chosen = shuffled[:limit]
    return [pictures[number] for number in (chosen if split == "train" else sorted(chosen))]


def _write(split: _Split, run: Run, bad_images: BadImages) -> None:
    jobs = split.jobs()
    done = len(split.pictures) - sum(len(job.pictures) for job in jobs)
    with tqdm(total=len(split.pictures), initial=done, desc=split.name, unit="image", disable=None) as bar:
        for job, made in zip(jobs, run(write_shard, jobs)):
            for name, reason in made.bad:
                bad_images.record(f"{split.name}/{name}", reason)
            bar.update(len(job.pictures))


@dataclass(frozen=True)
class _Split:
    """One split of the data set in `target`: all its images in order, all classes in order."""

    target: Path
    name: str
    pictures: List[Picture]
    classes: List[str]
    settings: Settings

    def begin(self) -> None:
        """Check that what is in the folder belongs to this, and note that it is being made."""
        folder = self.target / self.name
        folder.mkdir(parents=True, exist_ok=True)
        content = info.read(self.target)
        splits = content.setdefault("splits", {})
        digest = self._digest()
        foreign = any(folder.glob(f"{self.name}-*")) and splits.get(self.name, {}).get("digest") != digest
        if foreign or content.get("classes", self.classes) != self.classes:
            raise UserError(
                f"{self.target} holds shards of other images or settings: choose another folder, or remove it"
            )
        try:
            chunks(len(self.pictures), self.settings.shards[self.name])
        except ValueError as error:
            raise UserError(f"{error}: give a smaller --{self.name}_shards") from None
        for left in folder.glob(f".{self.name}-*-of-*.tmp"):  # by a run that was killed
            left.unlink()
        content["classes"] = self.classes
        splits[self.name] = {"complete": False, "shards": self.settings.shards[self.name], "digest": digest}
        info.write(self.target, content)

    def _digest(self) -> str:
        """SHA-256 of what decides the bytes of the shards, but for the images' own bytes."""
        settings = {**asdict(self.settings), "shards": self.settings.shards[self.name], "classes": self.classes}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for picture in self.pictures:
            digest.update(f"{picture.synset}/{picture.name}\n".encode())
        return digest.hexdigest()

    def jobs(self) -> List[Job]:
        """The shards that are not there yet."""
        settings = self.settings
        labels = {name: number for number, name in enumerate(self.classes, start=1)}
        count = settings.shards[self.name]
        jobs = []
        for number, (first, last) in enumerate(chunks(len(self.pictures), count)):
            path = self.target / self.name / f"{self.name}-{number:05d}-of-{count:05d}"
            if not path.exists():
                some = self.pictures[first:last]
                numbers = [labels[picture.synset] for picture in some]
                jobs.append(Job(path, some, numbers, settings.short_side, settings.image_format, settings.quality))
        return jobs


def verify(target: Path, splits: Sequence[str], run: Run) -> Tuple[Dict[str, int], List[str]]:
    """Records of each split and all that is wrong with the shards below `target`."""
    content = info.read(target)
    counts: Dict[str, int] = {}
    problems: List[str] = []
    for split in splits:
        made = content.get("splits", {}).get(split)
        if made is None or not made.get("complete"):
            problems.append(f"{split} is not complete: run preprocess_imagenet.py again to go on")
            continue
        paths = [target / split / f"{split}-{n:05d}-of-{made['shards']:05d}" for n in range(made["shards"])]
        results = run(partial(verify_shard, classes=len(content["classes"])), paths)
        counts[split] = 0
        for count, found in tqdm(results, f"verify {split}", len(paths), unit="shard", disable=None):
            counts[split] += count
            problems += found
        if counts[split] != made["images"]:
            problems.append(f"{split} has {counts[split]} whole records, not the {made['images']} that were written")
    return counts, problems
