"""Images in zip archives: `train.zip` and `val.zip` (or `validation.zip`) in one folder.

An archive holds class folders, or any files that a map beside it labels: `train_map.txt` with a line
`PATH<TAB>LABEL` for each. Processes read by position through a file of their own, so nothing is shared that moves.
"""

from __future__ import annotations

import os
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from run.errors import UserError
from run.images import BadImageError, Crop, decode_rgb

_NAMES = {"train": ("train",), "validation": ("validation", "val")}
_SYNSET = re.compile(r"n\d{8}")
_HEADER = struct.Struct("<4s5H3L2H")  # of a member, before its name
_MAGIC = b"PK\x03\x04"


def find_archive(path: str, split: str) -> Optional[Path]:
    """The archive of `split` in the folder `path`, None if there is none."""
    places = [Path(path) / f"{name}.zip" for name in _NAMES[split]]
    return next((place for place in places if place.is_file()), None)


class Member(NamedTuple):
    """A file in an archive and its class number."""

    info: zipfile.ZipInfo
    label: int


class ZipImages:
    """The images of an archive, by class, then by name; may be pickled to worker processes.

    What the archive's directory says of a million members is kept in arrays, not in objects that every forked worker
    would come to copy.

    Args:
        archive: the file.
        classes: names by label.
        members: image files.
    """

    def __init__(self, archive: Path, classes: Sequence[str], members: Sequence[Member]) -> None:
        self.archive = archive
        self.classes = list(classes)
        self.prefix = f"{archive}:"
        names = [member.info.filename.encode() for member in members]
        self._names, self._name_ends = b"".join(names), np.cumsum([len(name) for name in names])
        self._labels = np.array([member.label for member in members], dtype=np.int32)
        infos = [member.info for member in members]
        self._starts = np.array([info.header_offset for info in infos], dtype=np.int64)
        self._sizes = np.array([info.compress_size for info in infos], dtype=np.int64)
        self._deflated = np.array([info.compress_type == zipfile.ZIP_DEFLATED for info in infos])
        self._checksums = np.array([info.CRC for info in infos], dtype=np.uint32)
        self._files: Dict[int, int] = {}  # process → descriptor of its own

    @classmethod
    def open(cls, path: str, split: str) -> ZipImages:
        """The images of the "train" or "validation" archive in the folder `path`.

        Raises:
            UserError: with what is wrong and its remedy.
        """
        archive = find_archive(path, split)
        if archive is None:
            wanted = " or ".join(f"{name}.zip" for name in _NAMES[split])
            raise UserError(f"{path} has no {wanted}: make it with python -m dataset.pack, or give another folder")
        infos = _directory(archive)
        labels = archive.with_name(f"{archive.stem}_map.txt")
        classes, members = _by_map(archive, infos, labels) if labels.is_file() else _by_folder(archive, infos)
        if classes == _numbered(len(classes)):
            classes = _named_by_other_map(path, split, len(classes)) or classes
        _check_classes(archive, classes, members)
        return cls(archive, classes, members)

    def __getstate__(self) -> Dict[str, object]:
        return {**self.__dict__, "_files": {}}

    def __len__(self) -> int:
        return len(self._labels)

    def name(self, index: int) -> str:
        """Archive and path in it of image `index`."""
        start = self._name_ends[index - 1] if index else 0
        return self.prefix + self._names[start : self._name_ends[index]].decode()

    def label(self, index: int) -> int:
        """Class number of image `index`."""
        return int(self._labels[index])

    def image(self, index: int, crop: Optional[Crop] = None) -> Tensor:
        """(3, H, W) uint8, or the part of it that `crop` chooses; BadImageError where it cannot be decoded."""
        return decode_rgb(self.content(index), crop)

    def content(self, index: int) -> bytes:
        """Bytes of image `index` as they were packed; BadImageError where they are damaged."""
        file, start = self._file(), int(self._starts[index])
        header = os.pread(file, _HEADER.size, start)
        if len(header) < _HEADER.size or not header.startswith(_MAGIC):
            raise BadImageError("the archive is damaged here")
        *_, name_length, extra_length = _HEADER.unpack(header)
        data = os.pread(file, int(self._sizes[index]), start + _HEADER.size + name_length + extra_length)
        try:
            content = zlib.decompress(data, -zlib.MAX_WBITS) if self._deflated[index] else data
        except zlib.error as error:
            raise BadImageError("the archive is damaged here") from error
        if zlib.crc32(content) != self._checksums[index]:
            raise BadImageError("the archive is damaged here")
        return content

    def _file(self) -> int:
        process = os.getpid()
        if process not in self._files:
            self._files[process] = os.open(self.archive, os.O_RDONLY)
        return self._files[process]


def _directory(archive: Path) -> List[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(archive) as opened:
            infos = [info for info in opened.infolist() if not info.is_dir()]
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{archive} is no zip archive that can be read ({error}): copy or pack it again") from error
    for info in infos:
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(
                f"{archive}: {info.filename} is encrypted or compressed in another way than deflated: "
                "pack it again with python -m dataset.pack"
            )
    return infos


def _by_folder(archive: Path, infos: Sequence[zipfile.ZipInfo]) -> Tuple[List[str], List[Member]]:
    """Classes from the folder that each image lies in; folders around all of them, such as `train/`, are left out."""
    paths = {info.filename: info for info in infos if info.filename.lower().endswith(IMG_EXTENSIONS)}
    paths = {name: info for name, info in paths.items() if not os.path.basename(name).startswith(".")}
    parts = {name: name.split("/")[:-1] for name in paths}
    if not paths or min(map(len, parts.values())) < 1:
        raise UserError(
            f"{archive} has no class folders and no {archive.stem}_map.txt beside it: put each image into the folder "
            "of its class"
        )
    depth = 0
    while all(len(folders) > depth + 1 for folders in parts.values()) and _is_shared(list(parts.values()), depth):
        depth += 1
    classes = sorted({folders[depth] for folders in parts.values()})
    label = {name: index for index, name in enumerate(classes)}
    members = [Member(paths[name], label[parts[name][depth]]) for name in paths]
    return classes, sorted(members, key=lambda member: (member.label, member.info.filename))


def _is_shared(folders: Sequence[Sequence[str]], depth: int) -> bool:
    return len({parts[depth] for parts in folders}) == 1


def _by_map(archive: Path, infos: Sequence[zipfile.ZipInfo], path: Path) -> Tuple[List[str], List[Member]]:
    """Labels from a map; classes are named by their folder, where each has one of its own."""
    found = {info.filename: info for info in infos}
    labels = _read_map(path)
    for number, (name, _) in enumerate(labels, start=1):
        if name not in found:
            raise UserError(f"{path}, line {number}: {archive} has no {name}; pack both again")
    members = [Member(found[name], label) for name, label in labels]
    return _names(labels), sorted(members, key=lambda member: (member.label, member.info.filename))


def _read_map(path: Path) -> List[Tuple[str, int]]:
    """Path in the archive and label of each line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read as UTF-8 text: pack the images again, or save it so") from error
    labels: List[Tuple[str, int]] = []
    for number, line in enumerate(lines, start=1):
        name, _, label = line.rpartition("\t")
        if not name or not label.strip().isdecimal():
            raise UserError(f"{path}, line {number}: write PATH<TAB>LABEL, with a label from 0")
        labels.append((name, int(label)))
    if not labels:
        raise UserError(f"{path} is empty: write a line PATH<TAB>LABEL for each image, or remove it")
    return labels


def _names(labels: Sequence[Tuple[str, int]]) -> List[str]:
    """Names of the classes: their folders, where each has one of its own, otherwise numbers."""
    folders: Dict[int, set] = {}
    for name, label in labels:
        folders.setdefault(label, set()).add(name.rpartition("/")[0].rpartition("/")[2])
    count = max(folders) + 1
    own = len(folders) == count and all(len(names) == 1 for names in folders.values())
    names = [next(iter(folders[label])) if own else "" for label in range(count)]
    return _numbered(count) if len(set(names)) < count or "" in names else names


def _numbered(count: int) -> List[str]:
    return [f"class {label}" for label in range(count)]


def _named_by_other_map(path: str, split: str, count: int) -> List[str]:
    """Names that the other split's map gives to `count` classes, none where it gives no such names.

    Microsoft's train_map.txt has class folders, their val_map.txt has all images in one.
    """
    others = (Path(path) / f"{name}_map.txt" for other in _NAMES if other != split for name in _NAMES[other])
    found = next((other for other in others if other.is_file()), None)
    names = _names(_read_map(found)) if found else []
    return names if len(names) == count else []


def _check_classes(archive: Path, classes: Sequence[str], members: Sequence[Member]) -> None:
    held = {member.label for member in members}
    if len(held) < len(classes):
        missing = next(label for label in range(len(classes)) if label not in held)
        raise UserError(f"{archive} has {len(classes)} classes and no image of class {missing}: pack it again")
    if len(classes) <= 1000 and all(map(_SYNSET.fullmatch, classes)) and list(classes) != sorted(classes):
        raise UserError(
            f"{archive} numbers its WordNet synsets in another order than the alphabetical one of published weights: "
            "sort its map"
        )
