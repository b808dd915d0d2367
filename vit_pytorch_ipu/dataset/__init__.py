"""Data sets of images: CIFAR-10, ImageNet and other class folders, generated noise."""

from dataset.images import ImageDataset, create_dataset
from dataset.spec import DataSpec
from dataset.transforms import normalize

__all__ = ["DataSpec", "ImageDataset", "create_dataset", "normalize"]
