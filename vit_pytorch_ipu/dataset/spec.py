"""What the user asked of the data: one frozen record, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

from run.errors import UserError

_CHOICES = {
    "name": ("cifar10", "imagenet1k", "folder", "generated"),
    "dtype": ("uint8", "float16", "float32"),
    "eval_resize": ("crop", "direct"),
    "extra_aug": (None, "imagenet_policy"),
}


@dataclass(frozen=True)
class DataSpec:
    """The data set and how its images are prepared.

    Raises:
        UserError: when a value is not one of the choices or out of its range.
    """

    name: str = "cifar10"  # cifar10 | imagenet1k | folder | generated
    path: str = ""  # the folder that holds the data
    image_size: int = 224  # pixels, height and width of what the model gets
    num_classes: Optional[int] = None  # None: as many as the data have
    dtype: str = "uint8"  # uint8: 0..255, the model normalises; float16 | float32: normalised to [-1, 1]
    seed: int = 0  # of augmentation and of generated images
    download: bool = False  # cifar10 only: fetch the archive when it is not there
    random_flip: bool = True  # mirror half of the training images
    crop_scale_min: float = 0.05  # smallest share of a training image's area that a crop keeps
    eval_resize: str = "crop"  # crop: shorter side to size * 256/224, centre crop; direct: straight to size
    extra_aug: Optional[str] = None  # imagenet_policy: AutoAugment's ImageNet policy after crop and flip
    size: int = 0  # generated only: number of images
    bad_image_ratio: float = 0.001  # share of images that may fail to decode before the run stops
    bad_images: Optional[str] = None  # file that lists them; None: one in the temporary folder

    def __post_init__(self) -> None:
        for field, choices in _CHOICES.items():
            self._require(getattr(self, field) in choices, field, f"one of {_listed(choices)}")
        self._require(self.image_size >= 1, "image_size", "at least 1 pixel")
        self._require(self.num_classes is None or self.num_classes >= 1, "num_classes", "at least 1")
        self._require(0.0 < self.crop_scale_min <= 1.0, "crop_scale_min", "above 0 and at most 1")
        self._require(0.0 <= self.bad_image_ratio <= 1.0, "bad_image_ratio", "between 0 and 1")
        if self.name == "generated":
            self._require(self.size >= 1, "size", "at least 1 image for generated data")
            self._require(self.num_classes is not None, "num_classes", "given for generated data")
        else:
            self._require(bool(self.path), "path", f"the folder that holds the {self.name} data")

    def _require(self, condition: bool, field: str, wanted: str) -> None:
        if not condition:
            raise UserError(f"data option {field} is {getattr(self, field)!r} and must be {wanted}.")


def _listed(choices: Tuple[Optional[str], ...]) -> str:
    return ", ".join("none" if choice is None else choice for choice in choices)
