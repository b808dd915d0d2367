"""The data of a run: what is in the shards, and this worker's part of the pipelines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Optional, Sequence, Tuple, Union

import tensorflow as tf

from dataset import GOOGLE, INCEPTION, Augmentation, class_names, dataset_info, evaluation_dataset, training_dataset
from distributed import Workers
from errors import UsageError
from options import TrainOptions

Batches = Iterable[Tuple[tf.Tensor, tf.Tensor]]


@dataclass(frozen=True)
class Data:
    """Counts and classes; `training(step)` gives this worker's micro-batches from that micro-step on, `evaluation()`
    its part of the validation samples, padded with label -1.
    """

    train_samples: int
    num_classes: int
    class_names: Sequence[str]
    training: Callable[[int], Batches]
    evaluation: Callable[[], Batches]


_AUGMENTATIONS: Dict[str, Union[bool, Augmentation]] = {"inception": INCEPTION, "google": GOOGLE, "none": False}


def _subsets(options: TrainOptions) -> Dict[str, Optional[str]]:
    """The subsets that the run reads; both where only the labels in them tell how many classes there are."""
    subsets: Dict[str, Optional[str]] = {"train_subset": options.train_subset, "val_subset": options.val_subset}
    if options.num_classes or class_names(Path(options.dataset)) is not None:
        if options.evaluate_checkpoint_path:
            subsets["train_subset"] = None
        elif options.validation_steps == 0:
            subsets["val_subset"] = None
    return subsets


def open_data(options: TrainOptions, workers: Workers, seed: int, bad_images: Optional[Path] = None) -> Data:
    """The data of --dataset; `bad_images` is the file that lists what can't be decoded.

    Raises:
        UsageError: --num_classes contradicts them.
    """
    info = dataset_info(options.dataset, **_subsets(options))
    if options.num_classes and options.num_classes < info.num_classes:
        raise UsageError(
            f"--num_classes {options.num_classes} is less than the {info.num_classes} classes in {options.dataset}: "
            "leave it out"
        )
    shared: Dict[str, Any] = {
        "image_size": options.image_size,
        "batch_size": max(1, options.batch_size // workers.size),
        "shard": (workers.rank, workers.size),
        "bad_images": bad_images,
    }
    augment = _AUGMENTATIONS[options.augmentation if options.augment else "none"]

    def training(step: int) -> Batches:
        return training_dataset(
            options.dataset,
            subset=options.train_subset,
            seed=seed,
            start_step=step,
            augment=augment,
            **shared,
        )

    def evaluation() -> Batches:
        batches = evaluation_dataset(options.dataset, subset=options.val_subset, geometry=options.eval_resize, **shared)
        return batches.take(options.validation_steps) if options.validation_steps else batches

    return Data(
        info.train_samples, options.num_classes or info.num_classes, tuple(info.class_names), training, evaluation
    )
