"""Packed pixels: images decoded once, of one size, in arrays that are mapped into memory.

A folder holds packed.json (size, classes, number of images of each split) and for each split SPLIT-images.npy,
(images, S, S, 3) uint8, with SPLIT-labels.npy. An image takes 3·S² bytes: ImageNet-1k at 256 pixels 262 GB.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np
import torch
from torch import Tensor

from dataset.transforms import resize
from run.errors import UserError
from run.images import Crop

DESCRIPTION = "packed.json"
VERSION = 1


def files(folder: Path, split: str) -> Dict[str, Path]:
    """Files of the images and of the labels of a split."""
    return {kind: folder / f"{split}-{kind}.npy" for kind in ("images", "labels")}


def square(image: Tensor, size: int) -> Tensor:
    """(3, H, W) uint8 -> (3, size, size): shorter side resized to `size` (bicubic), the central square cut out."""
    height, width = image.shape[-2:]
    longest = 8 * min(height, width)  # a 1 × 10000 strip would fill memory
    image = image[:, max(0, height - longest) // 2 :, max(0, width - longest) // 2 :][:, :longest, :longest]
    height, width = image.shape[-2:]
    scale = size / min(height, width)
    image = resize(image, (max(size, int(height * scale)), max(size, int(width * scale))), "bicubic")
    top, left = round((image.shape[-2] - size) / 2), round((image.shape[-1] - size) / 2)
    return image[:, top : top + size, left : left + size]


class PackedImages:
    """The images of a split; may be pickled to worker processes, each of which maps the file by itself.

    Args:
        path: folder.
        split: "train" or "validation".

    Raises:
        UserError: there is no such split, or its files aren't whole.
    """

    def __init__(self, path: str, split: str) -> None:
        folder = Path(path)
        description = _describe(folder)
        self.classes: List[str] = description["classes"]
        self.prefix = f"packed {split} image "
        self.size: int = description["size"]
        if split not in description["splits"]:
            raise UserError(f"{folder} has no packed {split} images: pack the {split} split as well")
        self._files = files(folder, split)
        self._labels = _open(self._files["labels"], "r")
        self._images: Optional[np.ndarray] = None
        count = description["splits"][split]
        if self._labels.shape != (count,) or self._mapped().shape != (count, self.size, self.size, 3):
            raise UserError(f"{self._files['images']} has not the {count} images of {DESCRIPTION}: pack it again")

    @staticmethod
    def is_in(path: str) -> bool:
        """Whether the folder holds packed images."""
        return (Path(path) / DESCRIPTION).is_file()

    def __getstate__(self) -> Dict[str, Any]:
        return {**self.__dict__, "_images": None}

    def __len__(self) -> int:
        return len(self._labels)

    def name(self, index: int) -> str:
        """What a message calls image `index`."""
        return f"{self.prefix}{index}"

    def label(self, index: int) -> int:
        """Class number of image `index`."""
        return int(self._labels[index])

    def image(self, index: int, crop: Optional[Crop] = None) -> Tensor:
        """(3, S, S) uint8, or the part of it that `crop` chooses; channels last in memory."""
        pixels = self._mapped()[index]
        top, left, rows, columns = crop(self.size, self.size) if crop else (0, 0, self.size, self.size)
        return torch.from_numpy(np.array(pixels[top : top + rows, left : left + columns])).permute(2, 0, 1)

    def _mapped(self) -> np.ndarray:
        if self._images is None:
            self._images = _open(self._files["images"], "r")
        return self._images


def _describe(folder: Path) -> Dict[str, Any]:
    try:
        content = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        if content["version"] == VERSION:
            return {name: content[name] for name in ("size", "classes", "splits")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / DESCRIPTION} can't be read: pack the images with python -m dataset.pack") from error
    raise UserError(f"{folder} was packed by another version of dataset.pack: pack it again")


def _open(path: Path, mode: Any) -> np.ndarray:
    try:
        return np.load(path, mmap_mode=mode, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is missing or damaged: pack the images again") from error
