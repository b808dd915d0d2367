"""Data sets of images: CIFAR-10, ImageNet and other class folders, generated noise."""

from dataset.create import create_dataset
from dataset.images import ImageDataset
from dataset.spec import DataSpec
from dataset.transforms import normalize

__all__ = ["DataSpec", "ImageDataset", "create_dataset", "normalize"]
