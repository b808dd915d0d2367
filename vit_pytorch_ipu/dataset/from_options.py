"""The data set that the scripts' options describe."""

from __future__ import annotations

from typing import Any, Dict, Union

from dataset.spec import DataSpec
from ipu.program import INPUT_TYPES
from ipu_options import create_program
from options import FinetuneOptions, ValidationOptions


def data_spec(options: Union[FinetuneOptions, ValidationOptions], bad_images: str) -> DataSpec:
    """What to read and how: the options of data and, in training, of augmentation.

    Args:
        options: of the script.
        bad_images: file that lists unreadable images.
    """
    augmentation: Dict[str, Any] = {}
    if isinstance(options, FinetuneOptions):
        augmentation = {
            "seed": options.random_seed,
            "random_flip": options.random_flip,
            "crop_scale_min": options.crop_scale_min,
            "extra_aug": options.extra_aug,
        }
    return DataSpec(
        name=options.dataset,
        path=options.dataset_path,
        image_size=options.image_size,
        num_classes=options.num_labels,
        dtype="uint8" if options.byteio else INPUT_TYPES[options.precision],
        download=options.download,
        eval_resize=options.eval_resize,
        bad_image_ratio=options.bad_image_ratio,
        bad_images=bad_images,
        size=options.iterations * create_program(options).samples_per_step,
        **augmentation,
    )
