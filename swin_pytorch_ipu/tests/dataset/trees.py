"""Small trees of class folders."""

import numpy as np
from PIL import Image


def picture(path, size=(40, 30), seed=0, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **how)
    return path


def tree(folder, classes=("a", "b", "c"), images=3, validation="validation"):
    """train/ and validation/ with PNGs and JPEGs of several shapes."""
    for split, count in (("train", images), (validation, 2)):
        for number, name in enumerate(classes):
            for index in range(count):
                suffix = "png" if index % 2 else "JPEG"
                size = [(40, 30), (30, 52), (64, 64)][(index + number) % 3]
                picture(folder / split / name / f"{index}.{suffix}", size, seed=100 * number + index)
    return folder
