"""How a checkpoint wants its images: resize and normalisation, from its config.json or preprocessor_config.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from run.errors import UserError

# Statistics of ImageNet's training images, which published MAE weights are used with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
EVAL_RESIZES = ("crop", "direct")

_HAS_UINT8_RESIZE = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 1)


@dataclass(frozen=True)
class Preparation:
    """Evaluation's preparation: side of the input in pixels, how it is got, mean and std per channel.

    eval_resize "crop" makes the shorter side size / 0.875, or size where that is above 224, and cuts out the centre;
    "direct" resizes to size × size. Both are bicubic.
    """

    size: int = 224
    eval_resize: str = "crop"
    mean: Tuple[float, ...] = IMAGENET_MEAN
    std: Tuple[float, ...] = IMAGENET_STD

    def __str__(self) -> str:
        how = {"crop": "centre crop", "direct": "resized as a whole"}[self.eval_resize]
        mean, std = (" ".join("%g" % value for value in values) for values in (self.mean, self.std))
        return f"{how}, {self.size}×{self.size} pixels, mean {mean}, std {std}"

    @property
    def shorter_side(self) -> int:
        """Of the image that is cropped, in pixels."""
        return int(self.size / 0.875) if self.size <= 224 else self.size

    def cut(self, image: Tensor, _generator: Optional[torch.Generator] = None) -> Tensor:
        """(c, H, W) uint8 -> (c, size, size) uint8; nothing is random."""
        size = self.size
        if self.eval_resize == "direct":
            return resize_bicubic(image, (size, size)).contiguous()
        image = _limit_aspect_ratio(image)
        height, width = image.shape[-2:]
        shorter, shortest = self.shorter_side, min(height, width)
        image = resize_bicubic(image, (shorter * height // shortest, shorter * width // shortest))
        top = round((image.shape[-2] - size) / 2)
        left = round((image.shape[-1] - size) / 2)
        return image[:, top : top + size, left : left + size].contiguous()

    def normalise(self, images: Tensor) -> Tensor:
        """(B, c, H, W) uint8 -> float32, as the model takes it."""
        mean, std = self._statistics(images.device)
        return images.to(torch.float32).div_(255).sub_(mean).div_(std)

    def pixels(self, images: Tensor) -> Tensor:
        """What `normalise` was given, (B, c, H, W) floats -> uint8; out of range is clipped."""
        mean, std = self._statistics(images.device)
        return images.float().mul(std).add_(mean).mul_(255).round_().clamp_(0, 255).to(torch.uint8)

    def _statistics(self, device: torch.device) -> Tuple[Tensor, ...]:
        return tuple(torch.tensor(values, device=device).reshape(-1, 1, 1) for values in (self.mean, self.std))


def resize_bicubic(image: Tensor, size: Tuple[int, int]) -> Tensor:
    """(c, H, W) uint8 -> (c, *size) uint8, bicubic with antialiasing."""
    # The 8-bit kernel wants the channels innermost, as decoders lay pixels out; image[None] has strides that hide it.
    batch = image.permute(1, 2, 0).contiguous()[None].permute(0, 3, 1, 2)
    if _HAS_UINT8_RESIZE:
        return F.interpolate(batch, size, mode="bicubic", antialias=True)[0]
    floats = F.interpolate(batch.to(torch.float32), size, mode="bicubic", antialias=True)
    return floats.round_().clamp_(0, 255).to(torch.uint8)[0]


def read_preparation(config: Mapping[str, Any], size: int, eval_resize: Optional[str] = None) -> Preparation:
    """Preparation for `size` pixels from this app's config.json or a Hugging Face preprocessor_config.json.

    Args:
        config: that file, {} where there is none, which means ImageNet's statistics.
        size: side of the model's input.
        eval_resize: if given, it wins; where nothing says, it is "crop".

    Raises:
        UserError: mean or std are no lists of numbers.
    """
    size_of = config.get("size")  # in older files, as those of facebook/vit-mae-*, a single number: of a square
    crops = config.get("do_center_crop", not config) or (isinstance(size_of, dict) and "shortest_edge" in size_of)
    written = config.get("eval_resize") or ("crop" if crops else "direct")
    if not config.get("do_normalize", True):
        config = {"image_mean": (0.0,) * 3, "image_std": (1.0,) * 3}
    mean = _numbers(config, "image_mean", IMAGENET_MEAN)
    std = _numbers(config, "image_std", IMAGENET_STD)
    if len(mean) != len(std) or min(std) <= 0:
        raise UserError("the checkpoint's image_mean and image_std do not go together: mend its JSON file")
    return Preparation(size, eval_resize or str(written), mean, std)


def preprocessor_config(image_size: Tuple[int, int], preparation: Preparation) -> Dict[str, Any]:
    """What transformers' pipelines do to an image before the model, as evaluation here does."""
    height, width = image_size
    size: Dict[str, Any] = {"height": height, "width": width}
    shape: Dict[str, Any] = {"image_processor_type": "ViTImageProcessor", "size": size}
    if preparation.eval_resize == "crop":  # which the ViTImageProcessor of transformers 4 can't
        shape = {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": preparation.shorter_side}}
        shape.update(do_center_crop=True, crop_size=size)
    return {
        **shape,
        "do_resize": True,
        "resample": 3,  # bicubic, in Pillow's numbers
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preparation.mean),
        "image_std": list(preparation.std),
    }


def _limit_aspect_ratio(image: Tensor) -> Tensor:
    """Cut off what lies beyond 4:1: the centre crop never sees it, and a 1 × 10000 strip would fill memory."""
    height, width = image.shape[-2:]
    longest = 4 * min(height, width)
    top, left = max(0, height - longest) // 2, max(0, width - longest) // 2
    return image[:, top : top + longest, left : left + longest]


def _numbers(config: Mapping[str, Any], key: str, default: Sequence[float]) -> Tuple[float, ...]:
    values = config.get(key) or default
    try:
        return tuple(float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise UserError(f"the checkpoint's {key} {values} is no list of numbers: mend its JSON file") from error
