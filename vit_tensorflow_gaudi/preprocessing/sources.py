"""What images the raw data have and which class each belongs to, for every layout; no image is opened.

Archives are read in place: members are spans of the tar file, so nothing is unpacked and no member's name ever becomes
a path.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence, Set, Tuple

from common.imagenet import ImageNetLayoutError, Verdict, check
from common.listing import IMAGE_SUFFIXES, image_files
from common.shards import list_archive
from errors import UserError
from preprocessing.labels import validation_classes

_RAW = ("folders", "flat", "kaggle", "archives")


class Picture(NamedTuple):
    """One image: `size` bytes at `offset` of `path`, the whole file where `size` is negative."""

    name: str
    synset: str
    path: str
    offset: int = 0
    size: int = -1


def list_pictures(raw: Path, splits: Sequence[str]) -> Tuple[Dict[str, List[Picture]], List[str]]:
    """Images of each of `splits` in the order of their names, and all classes of the data, sorted.

    Raises:
        UserError: the layout is wrong, or labels are missing.
    """
    verdict = _checked(raw, splits)
    pictures = {split: _pictures(verdict, split) for split in splits}
    classes: Set[str] = set(verdict.classes)
    for some in pictures.values():
        classes.update(picture.synset for picture in some)
    other = {"train", "validation"} - set(splits)
    if other:  # its classes count, else labels would shift with --splits
        beside = check(raw, verdict.layout, splits=tuple(other))
        classes.update(beside.classes if beside.ok else ())
    return pictures, sorted(classes)


def _checked(raw: Path, splits: Sequence[str]) -> Verdict:
    verdict = check(raw, splits=tuple(splits))
    if not verdict.ok:
        raise UserError(str(ImageNetLayoutError(verdict)))
    if verdict.layout not in _RAW:
        raise UserError(f"{raw} has no raw ImageNet but {verdict.layout}: pass class folders or ILSVRC 2012's archives")
    return verdict


def _pictures(verdict: Verdict, split: str) -> List[Picture]:
    where = verdict.splits[split]
    if verdict.layout == "archives":
        found = _from_train_archive(where) if split == "train" else _from_archive(where)
    else:
        found = [_from_file(where, path) for path in image_files(where)]
    if any(not picture.synset for picture in found):
        names = sorted(picture.name for picture in found)
        synsets = validation_classes(verdict.path, where.parent, names)
        found = [picture._replace(synset=synsets[picture.name]) for picture in found]
    # Validation images in the order of their numbers, whether they lie in class folders or not.
    return sorted(found, key=lambda picture: (picture.synset if split == "train" else "", picture.name, picture.synset))


def _from_file(where: Path, path: str) -> Picture:
    parts = Path(path).relative_to(where).parts
    return Picture(parts[-1], parts[0] if len(parts) > 1 else "", path)


def _from_train_archive(path: Path) -> List[Picture]:
    found = []
    for archive, (offset, size) in list_archive(path)[0].items():
        if not archive.endswith(".tar"):
            continue
        synset = os.path.basename(archive)[: -len(".tar")]
        members, complete = list_archive(path, offset, size)
        if not complete:
            raise UserError(f"{archive} in {path} is cut short or no tar file: fetch the archive again")
        found += [Picture(name, synset, str(path), *span) for name, span in _images(members).items()]
    return found


def _from_archive(path: Path) -> List[Picture]:
    return [Picture(name, "", str(path), *span) for name, span in _images(list_archive(path)[0]).items()]


def _images(members: Dict[str, Tuple[int, int]]) -> Dict[str, Tuple[int, int]]:
    named = {name: span for name, span in members.items() if name.lower().endswith(IMAGE_SUFFIXES)}
    return {os.path.basename(name): span for name, span in named.items()}
