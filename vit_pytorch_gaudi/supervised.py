"""A classifier with its input normalisation and its loss, as one module to wrap and compile."""

from __future__ import annotations

from typing import Optional, Tuple, Union

import torch.nn.functional as F
from torch import Tensor, nn


class Supervised(nn.Module):
    """uint8 images → logits, or with labels → (loss, correct predictions).

    Images are normalised here, where the model runs, to [-1, 1]: (x / 255 - 0.5) / 0.5.

    Args:
        model: classifier of normalised images, (B, 3, S, S) -> (B, C).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, labels: Optional[Tensor] = None) -> Union[Tensor, Tuple[Tensor, Tensor]]:
        """Images (B, 3, S, S), uint8; labels (B,), integers.

        Returns:
            Logits (B, C), float32; with labels the mean cross-entropy and the number of correct predictions, float32.
        """
        logits = self.model(images.float() / 127.5 - 1.0).float()
        if labels is None:
            return logits
        return F.cross_entropy(logits, labels), (logits.detach().argmax(dim=-1) == labels).float().sum()
