"""Pack class folders: python -m dataset.pack --data-path FOLDER --output FOLDER [--format zip|packed].

zip     train.zip and val.zip with their maps: the files as they are, in two large ones instead of a million small
packed  pixels of one size in arrays: nothing is left to decode while training
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from common.imagenet import ImageNetLayoutError
from dataset.images import ImageDataset, ImageSource
from dataset.packed import DESCRIPTION, VERSION, files, square
from dataset.sources import open_images
from run.errors import UsageError, UserError, entry_point
from run.files import write_atomically
from run.option_values import REQUIRED, Only
from run.options import option, parse

SPLITS = {"train": "train", "validation": "val"}  # → name of the archive
_PIXELS = Only("with --format packed", lambda given: given.format == "packed")
_NOT_DATED = (1980, 1, 1, 0, 0, 0)  # the same images make the same archive


@dataclass(frozen=True)
class PackOptions:
    """Packing."""

    data_path: str = option(help="class folders, in train/ and validation/ or val/; packed pixels also from archives")
    output: str = option(help="folder to make")
    format: str = option("packed", "what to make", choices=("packed", "zip"))
    splits: List[str] = option(["train", "validation"], "what to pack", choices=tuple(SPLITS))
    size: int = option(
        256, "side of the packed squares; 256 is what 224-pixel evaluation cuts from", minimum=1, only=_PIXELS
    )
    num_workers: int = option(max(1, (os.cpu_count() or 1) - 1), "processes that decode", minimum=0, only=_PIXELS)
    bad_image_ratio: float = option(
        0.001, "share of unreadable images above which nothing is packed", minimum=0, maximum=1, only=_PIXELS
    )
    debug: bool = option(False, "show where in the program an error comes from")

    def __post_init__(self) -> None:
        for name in ("data_path", "output"):
            if getattr(self, name) is REQUIRED:
                raise UsageError("--%s is required: see --help" % name.replace("_", "-"))


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Read the options and pack."""
    about = "Pack class folders into zip archives, or into arrays of pixels that need no decoding."
    options = parse(PackOptions, arguments, configs=None, script="python -m dataset.pack", description=about)
    folder = Path(options.output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty: give another --output")
    temporary = folder.with_name(f".packing-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)  # of a packing that was interrupted
    temporary.mkdir(parents=True)
    try:
        (pack_pixels if options.format == "packed" else pack_archives)(options, temporary)
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    held = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {held / 1e9:.2f} GB; train with --data-path {folder}", flush=True)


def pack_archives(options: PackOptions, folder: Path) -> None:
    """Write an archive, not compressed any further, and its map for each split."""
    for split in options.splits:
        source = open_images(options.data_path, "folders", split)
        archive, lines = folder / f"{SPLITS[split]}.zip", []
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as opened:
            for index in tqdm(range(len(source)), desc=archive.name, disable=None):
                path = source.name(index)
                name = os.path.relpath(path, source.prefix).replace(os.sep, "/")
                opened.writestr(zipfile.ZipInfo(name, _NOT_DATED), Path(path).read_bytes())
                lines.append(f"{name}\t{source.label(index)}\n")
        write_atomically(folder / f"{SPLITS[split]}_map.txt", "".join(lines))


def pack_pixels(options: PackOptions, folder: Path) -> None:
    """Write arrays of squares and labels for each split; images that can't be decoded are replaced and listed.

    Raises:
        UserError: they are more than tolerated, or the splits' classes differ.
    """
    classes: List[str] = []
    counts: Dict[str, int] = {}
    for split in options.splits:
        source = open_images(options.data_path, "auto", split)
        if classes and source.classes != classes:
            raise UserError(f"the splits in {options.data_path} have other classes: give both the same")
        classes, counts[split] = source.classes, len(source)
        _pack_split(options, source, split, folder)
    content = {"version": VERSION, "size": options.size, "classes": classes, "splits": counts}
    write_atomically(folder / DESCRIPTION, json.dumps(content, ensure_ascii=False) + "\n")


def _pack_split(options: PackOptions, source: ImageSource, split: str, folder: Path) -> None:
    place, size = files(folder, split), options.size
    data = ImageDataset(
        source,
        Square(size),
        bad_image_ratio=options.bad_image_ratio,
        bad_images=str(folder / "bad_images.txt"),
    )
    images = np.lib.format.open_memmap(place["images"], "w+", np.uint8, (len(data), size, size, 3))
    labels = np.zeros(len(data), dtype=np.int64)
    loader = DataLoader(data, batch_size=64, num_workers=options.num_workers)
    written = 0
    for batch, numbers in tqdm(loader, desc=f"{split} images", disable=None):
        images[written : written + len(batch)] = batch.permute(0, 2, 3, 1).numpy()
        labels[written : written + len(batch)] = numbers.numpy()
        written += len(batch)
    images.flush()
    np.save(place["labels"], labels)
    data.check_bad_images()


class Square:
    """`dataset.packed.square` as a preparation."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Tensor, _generator: torch.Generator) -> Tensor:
        """(3, H, W) uint8 -> (3, size, size)."""
        return square(image, self.size).contiguous()


if __name__ == "__main__":
    entry_point(main, expected=(ImageNetLayoutError,))
