"""ImageNet in TFRecord shards: what is in them, and the tf.data pipelines that read them."""

from dataset.augmentation import GOOGLE, INCEPTION, Augmentation
from dataset.bad_images import readable_errors
from dataset.info import DatasetInfo, class_names, dataset_info
from dataset.pipeline import evaluation_dataset, training_dataset

__all__ = [
    "GOOGLE",
    "INCEPTION",
    "Augmentation",
    "DatasetInfo",
    "class_names",
    "dataset_info",
    "evaluation_dataset",
    "readable_errors",
    "training_dataset",
]
