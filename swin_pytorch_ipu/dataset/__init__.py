"""Data sets of images: class folders, zip archives, packed pixels, generated noise."""

from dataset.create import create_dataset
from dataset.images import ImageDataset

__all__ = ["ImageDataset", "create_dataset"]
