"""Data sets of images in class folders, or generated ones, for pretraining and for classification."""

from dataset.create import classification_data, masked_data, preparation_of, validation_data
from dataset.images import ImageDataset

__all__ = ["ImageDataset", "classification_data", "masked_data", "preparation_of", "validation_data"]
