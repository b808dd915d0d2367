"""How a checkpoint wants its images: resize and normalisation, in Hugging Face's preprocessor_config.json.

`Preparation.cut` is what evaluation does to an image, so that prediction and validation agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
EVAL_RESIZES = ("crop", "direct")

_HAS_UINT8_RESIZE = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 1)


@dataclass(frozen=True)
class Preparation:
    """Evaluation's preparation: size (height, width) in pixels, how it is got, mean and std per channel.

    eval_resize "crop" enlarges the size by 256/224, resizes the image until it covers that, and cuts out the centre;
    "direct" resizes to the size whatever the proportions. Both are bicubic.
    """

    size: Tuple[int, int] = (224, 224)
    eval_resize: str = "crop"
    mean: Tuple[float, ...] = IMAGENET_MEAN
    std: Tuple[float, ...] = IMAGENET_STD

    def __str__(self) -> str:
        how = {"crop": "centre crop", "direct": "resized as a whole"}[self.eval_resize]
        mean, std = (" ".join("%g" % value for value in values) for values in (self.mean, self.std))
        return f"{how}, {self.size[0]}×{self.size[1]} pixels, mean {mean}, std {std}"

    def cut(self, image: Tensor, _generator: Optional[torch.Generator] = None) -> Tensor:
        """(c, H, W) uint8 -> (c, *size) uint8; nothing is random."""
        if self.eval_resize == "direct":
            return resize_bicubic(image, self.size).contiguous()
        image = _limit_aspect_ratio(image)
        height, width = image.shape[-2:]
        (rows, columns), (below, right) = covered(self.size), self.size
        scale = max(rows / height, columns / width)
        image = resize_bicubic(image, (max(rows, int(height * scale)), max(columns, int(width * scale))))
        top, left = round((image.shape[-2] - below) / 2), round((image.shape[-1] - right) / 2)
        return image[:, top : top + below, left : left + right].contiguous()

    def normalise(self, images: Tensor) -> Tensor:
        """(B, c, H, W) uint8 -> float32, as the model takes it."""
        mean, std = (torch.tensor(values, device=images.device).reshape(-1, 1, 1) for values in (self.mean, self.std))
        return images.to(torch.float32).div_(255).sub_(mean).div_(std)


def covered(size: Tuple[int, int]) -> Tuple[int, int]:
    """What an image covers before its centre of `size` is cut out: 256 for 224, 438 for 384."""
    return size[0] * 256 // 224, size[1] * 256 // 224


def resize_bicubic(image: Tensor, size: Tuple[int, int]) -> Tensor:
    """(c, H, W) uint8 -> (c, *size) uint8, bicubic with antialiasing."""
    batch = image.permute(1, 2, 0).contiguous()[None].permute(0, 3, 1, 2)  # image[None] has strides that hide it
    if _HAS_UINT8_RESIZE:
        return F.interpolate(batch, size, mode="bicubic", antialias=True)[0]
    floats = F.interpolate(batch.to(torch.float32), size, mode="bicubic", antialias=True)
    return floats.round_().clamp_(0, 255).to(torch.uint8)[0]


def _limit_aspect_ratio(image: Tensor) -> Tensor:
    """Cut off what lies beyond 8:1: the centre crop hardly ever sees it, and a 1 × 10000 strip would fill memory."""
    height, width = image.shape[-2:]
    longest = 8 * min(height, width)
    top, left = max(0, height - longest) // 2, max(0, width - longest) // 2
    return image[:, top : top + longest, left : left + longest]


def read_preparation(config: Dict[str, Any], size: Tuple[int, int], eval_resize: Optional[str] = None) -> Preparation:
    """Preparation of `size` pixels from a preprocessor_config.json, {} where there is none.

    `eval_resize`, if given, wins; where nothing says, it is "crop". Mean and std are ImageNet's where the file names
    none.
    """
    stated = config.get("size")  # a plain number in older files, microsoft/swin-tiny-patch4-window7-224's among them
    crops = config.get("do_center_crop", not config) or (isinstance(stated, dict) and "shortest_edge" in stated)
    if not config.get("do_normalize", True):
        config = {"image_mean": (0.0,) * 3, "image_std": (1.0,) * 3}
    mean = tuple(config.get("image_mean") or IMAGENET_MEAN)
    std = tuple(config.get("image_std") or IMAGENET_STD)
    return Preparation(size, eval_resize or ("crop" if crops else "direct"), mean, std)


def preprocessor_config(image_size: Tuple[int, int], eval_resize: str) -> Dict[str, Any]:
    """What transformers' pipelines do to an image before the model, as evaluation here does for square sizes."""
    size = {"height": image_size[0], "width": image_size[1]}
    shape: Dict[str, Any] = {"image_processor_type": "ViTImageProcessor", "size": size}
    if eval_resize == "crop":  # which the ViTImageProcessor of transformers 4 can't
        shape = {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": min(covered(image_size))}}
        shape.update(do_center_crop=True, crop_size=size)
    return {
        **shape,
        "do_resize": True,
        "resample": 3,  # bicubic, in Pillow's numbers
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
    }
