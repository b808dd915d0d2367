"""TFRecord shards (`train/train-00000-of-01024`) and ILSVRC 2012's own tar archives."""

from __future__ import annotations

import os
import re
import struct
import tarfile
from pathlib import Path
from typing import Dict, Iterator, List, Sequence, Tuple

from common.folders import IMAGENET_COUNTS
from common.labels import DEVKIT, SYNSET_LABELS, check_ground_truth, read_devkit
from common.listing import IMAGE_SUFFIXES
from common.verdict import Findings, plural

ARCHIVES = {"train": "ILSVRC2012_img_train.tar", "validation": "ILSVRC2012_img_val.tar"}

_SHARD = re.compile(r"(train|validation)-(\d{5})-of-(\d{5})$")
_CRC_BYTES = 4


def find_shards(root: Path, split: str) -> Dict[int, Path]:
    """Shards of `split` by number, in `root/SPLIT/` as the TensorFlow app looks for them, or else in `root`."""
    for folder in (root / split, root):
        shards = {}
        for name in sorted(os.listdir(folder)) if folder.is_dir() else []:
            match = _SHARD.match(name)
            if match and match[1] == split:
                shards[int(match[2])] = folder / name
        if shards:
            return shards
    return {}


def check_tfrecord(findings: Findings, root: Path, splits: Sequence[str]) -> None:
    """Check that shards are complete: none missing, empty or cut short. Records are counted only with `full`."""
    for split in splits:
        shards = find_shards(root, split)
        if not shards:
            findings.problem(
                f"{root} has no {split} shards like {split}/{split}-00000-of-01024",
                "make them with the TensorFlow app's preprocess_imagenet.py",
            )
            continue
        findings.splits[split] = next(iter(shards.values())).parent
        totals = {int(path.name[-5:]) for path in shards.values()}
        if len(totals) > 1:
            findings.problem(
                f"{findings.splits[split]} mixes shards of {min(totals)} and of {max(totals)}",
                "remove those of the run that is not meant",
            )
            continue
        missing = [number for number in range(max(totals)) if number not in shards]
        if missing:
            name = f"{split}-{missing[0]:05d}-of-{max(totals):05d}"
            findings.problem(
                f"{findings.splits[split]} lacks {plural(len(missing), 'shard')}, first {name}", "make the shards again"
            )
        _check_shards(findings, split, list(shards.values()))


def _check_shards(findings: Findings, split: str, shards: List[Path]) -> None:
    total = 0
    for path in shards:
        try:
            spans = record_spans(path)
            total += sum(1 for _ in spans) if findings.full else len(list(zip(range(1), spans)))
            if path.stat().st_size == 0:
                raise ValueError("empty")
        except (OSError, ValueError) as error:
            findings.problem(f"shard {path} is damaged ({error})", "make the shards again")
            return
    if findings.full:
        findings.counts[split] = total
        if total != IMAGENET_COUNTS[split]:
            findings.problem(
                f"{findings.splits[split]} has {plural(total, 'record')}, not ImageNet-1k's {IMAGENET_COUNTS[split]:,}",
                "make the shards again from the complete images",
            )


def record_spans(path: Path) -> Iterator[Tuple[int, int]]:
    """Offset and size in bytes of each record of a TFRecord file; ValueError where the framing breaks off."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        offset = 0
        while offset < size:
            head = file.read(8 + _CRC_BYTES)
            length = struct.unpack("<Q", head[:8])[0] if len(head) == 8 + _CRC_BYTES else size
            start = offset + 8 + _CRC_BYTES
            offset = start + length + _CRC_BYTES
            if offset > size:
                raise ValueError(f"record at byte {start - 8 - _CRC_BYTES} is cut short")
            yield start, length
            file.seek(offset)


def check_archives(findings: Findings, root: Path, splits: Sequence[str]) -> None:
    """Check the archives' tables of contents; class archives inside the training one are opened only with `full`."""
    for split in splits:
        path = root / ARCHIVES[split]
        if not path.is_file():
            findings.problem(f"{root} has no {path.name}", "fetch it from image-net.org")
            continue
        findings.splits[split] = path
        members, complete = list_archive(path)
        if not complete:
            findings.problem(f"archive {path} is cut short or not a tar file", "fetch it again")
            continue
        (_check_train_archive if split == "train" else _check_validation_archive)(findings, path, members)


Members = Dict[str, Tuple[int, int]]


def list_archive(path: Path, offset: int = 0, size: int = -1) -> Tuple[Members, bool]:
    """Members of the tar at `offset` in `path` as name -> (offset, bytes), and whether the tar is whole."""
    members: Members = {}
    end = path.stat().st_size if size < 0 else offset + size
    try:
        for member in _files_in(path, offset):
            members[member.name] = (member.offset_data, member.size)
            if member.offset_data + member.size > end:
                return members, False
    except (OSError, tarfile.TarError):
        return members, False
    return members, True


def _files_in(path: Path, offset: int) -> Iterator[tarfile.TarInfo]:
    with open(path, "rb") as file:
        file.seek(offset)
        with tarfile.open(fileobj=file, mode="r:") as archive:
            yield from (member for member in archive if member.isfile())


def _check_train_archive(findings: Findings, path: Path, members: Members) -> None:
    classes = sorted(name[: -len(".tar")] for name in members if name.endswith(".tar"))
    if not classes:
        findings.problem(f"{path} has no class archives", "fetch it again")
        return
    findings.classes = tuple(classes)
    if not findings.full:
        return
    total = 0
    for name in classes:
        images, complete = list_archive(path, *members[f"{name}.tar"])
        total += len(images)
        if not complete or not images:
            findings.problem(f"class archive {name}.tar in {path} is empty or damaged", "fetch the archive again")
    findings.counts["train"] = total
    if total != IMAGENET_COUNTS["train"]:
        findings.problem(
            f"{path} has {plural(total, 'image')}, not ImageNet-1k's {IMAGENET_COUNTS['train']:,}", "fetch it again"
        )


def _check_validation_archive(findings: Findings, path: Path, members: Members) -> None:
    images = [name for name in members if name.lower().endswith(IMAGE_SUFFIXES)]
    findings.counts["validation"] = len(images)
    if not images or (findings.full and len(images) != IMAGENET_COUNTS["validation"]):
        findings.problem(
            f"{path} has {plural(len(images), 'image')}, not ImageNet-1k's {IMAGENET_COUNTS['validation']:,}",
            "fetch it again",
        )
    devkit = path.parent / f"{DEVKIT}.tar.gz"
    texts = [path.parent / name for name in SYNSET_LABELS if (path.parent / name).is_file()]
    if not devkit.is_file() and not texts:
        findings.problem(f"{path} comes without labels", f"fetch {DEVKIT}.tar.gz from image-net.org into {path.parent}")
        return
    source = devkit if devkit.is_file() else texts[0]
    labels = (read_devkit(devkit) if source == devkit else source.read_text(encoding="utf-8")).split()
    if len(labels) != len(images):
        findings.problem(
            f"{source} has {plural(len(labels), 'label')} for the {plural(len(images), 'image')} of {path}",
            "fetch both again",
        )
    elif source == devkit:
        check_ground_truth(findings, devkit, labels)
