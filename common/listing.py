"""What lies in a folder of images, from its directory entries alone."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Iterator, List

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
DEPTH_IN_CLASS = 3  # Tiny-ImageNet keeps train/CLASS/images/*.JPEG; the bound ends circular links


@dataclass
class Listing:
    """What lies in one folder: names, with anything below class folders summed up in `classes`."""

    classes: Dict[str, Listing] = field(default_factory=dict)
    images: List[str] = field(default_factory=list)
    hidden: List[str] = field(default_factory=list)  # named like images; macOS leaves ._a.jpg beside each a.jpg
    others: List[str] = field(default_factory=list)
    broken: List[str] = field(default_factory=list)

    def total(self) -> int:
        """Images here and below."""
        return len(self.images) + sum(inner.total() for inner in self.classes.values())


def list_folder(folder: Path, depth: int = DEPTH_IN_CLASS + 1) -> Listing:
    """Names in `folder`, folders followed `depth` levels down. No file is opened. OSError if it cannot be read."""
    listing = Listing()
    with os.scandir(folder) as entries:
        for entry in entries:
            kind = entry_kind(entry)
            if kind != "folder":
                getattr(listing, kind).append(entry.name)
            elif depth > 0:
                listing.classes[entry.name] = list_folder(Path(entry.path), depth - 1)
    return listing


def entry_kind(entry: os.DirEntry[str]) -> str:
    """Return "folder", or the list of a Listing that the entry's name belongs in."""
    try:
        if entry.is_dir():
            return "folder"
        if not entry.is_file():  # also what is_file says of a link to nothing
            return "broken" if entry.is_symlink() else "others"
    except OSError:  # a circle of links
        return "broken"
    if not entry.name.lower().endswith(IMAGE_SUFFIXES):
        return "others"
    return "hidden" if entry.name.startswith(".") else "images"


def image_files(folder: Path) -> Iterator[str]:
    """Paths of all images below `folder`, in sorted order."""
    for where, names, files in os.walk(folder, followlinks=True):
        names.sort()
        if len(Path(where).relative_to(folder).parts) > DEPTH_IN_CLASS:
            names.clear()
        for name in sorted(files):
            if name.lower().endswith(IMAGE_SUFFIXES):
                yield os.path.join(where, name)
