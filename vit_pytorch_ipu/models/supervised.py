"""A classifier with its input normalisation and its loss, as one module for the executors."""

from __future__ import annotations

from typing import Optional, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .vit import VisionTransformer


class Supervised(nn.Module):
    """Images → logits, or with labels → (loss, correct predictions).

    uint8 images are normalised here, where the model runs, to [-1, 1]: (x / 255 - 0.5) / 0.5.

    Args:
        model: classifier of normalised images, (B, 3, H, W) -> (B, C).
    """

    def __init__(self, model: VisionTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, labels: Optional[Tensor] = None) -> Union[Tensor, Tuple[Tensor, Tensor]]:
        """Images (B, 3, H, W), uint8 or normalised floats; labels (B,), integers.

        Returns:
            Logits (B, C); with labels the mean cross-entropy, float32, and the number of correct predictions, float32.
        """
        weights_dtype = next(self.model.parameters()).dtype
        if images.dtype == torch.uint8:
            images = images.to(weights_dtype) / 127.5 - 1.0
        logits = self.model(images.to(weights_dtype))
        if labels is None:
            return logits
        loss = F.cross_entropy(logits.float(), labels)
        correct = (logits.argmax(dim=-1) == labels).float().sum()
        return loss, correct
