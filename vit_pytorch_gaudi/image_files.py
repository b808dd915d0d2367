"""Image files that a command names, in batches, and where the pictures made of them go."""

from __future__ import annotations

import glob
import os
from collections import Counter
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from preparation import Preparation
from run.errors import UserError
from run.images import BadImageError, decode_rgb

PICTURES = (".attention.png", ".activation.png", ".mae.png")  # what scripts write beside images


def find_images(words: Sequence[str]) -> List[Path]:
    """Image files that files, folders (with all below them) and globs name, each once; none of PICTURES is one."""
    found: Dict[Path, None] = {}
    for word in words:
        matches = [word] if os.path.exists(word) else sorted(glob.glob(word, recursive=True))
        files = [Path(match) for match in matches if os.path.isfile(match)]
        below = [file for match in matches if os.path.isdir(match) for file in sorted(Path(match).rglob("*"))]
        files += [file for file in below if file.suffix.lower() in IMG_EXTENSIONS and file.is_file()]
        if not files:
            raise UserError(f"there is no image at {word}: check the path")
        found.update(dict.fromkeys(file for file in files if not file.name.endswith(PICTURES)))
    if words and not found:
        raise UserError(f"{words[0]} holds only pictures that were made of images: check the path")
    return list(found)


def picture_paths(paths: Sequence[Path], suffix: str, folder: Optional[str]) -> Dict[Path, Path]:
    """Image → its picture: beside it, or below `folder` as the images lie below what they share."""
    top_folder = Path(os.path.commonpath([path.resolve().parent for path in paths]))
    pictures: Dict[Path, Path] = {}
    for path in paths:
        place = path.parent if folder is None else Path(folder) / path.resolve().parent.relative_to(top_folder)
        pictures[path] = place / (path.stem + suffix)
    picture, images = Counter(pictures.values()).most_common(1)[0]
    if images > 1:
        raise UserError(f"{images} images would have the picture {picture}: give them in two commands")
    return pictures


def prepared(
    paths: Iterable[Path], preparation: Preparation, batch: int, bad: Dict[str, str]
) -> Iterator[Tuple[List[Path], Tensor]]:
    """Batches of at most `batch` readable images, (B, 3, H, W) uint8, with their paths; the others go to `bad`."""
    names: List[Path] = []
    images: List[Tensor] = []
    for path in paths:
        try:
            images.append(preparation.cut(decode_rgb(str(path))))
            names.append(path)
        except BadImageError as error:
            bad[str(path)] = str(error)
        if len(images) == batch:
            yield names, torch.stack(images)
            names, images = [], []
    if images:
        yield names, torch.stack(images)
