"""Data sets of images: CIFAR, ImageNet and other class folders, generated noise."""

from dataset.create import create_dataset
from dataset.images import ImageDataset

__all__ = ["ImageDataset", "create_dataset"]
