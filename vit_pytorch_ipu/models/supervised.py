"""A classifier with its input normalisation, mixup and its loss, as one module for the executors."""

from __future__ import annotations

from typing import Optional, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poptorch_host.backend import poptorch

from .vit import VisionTransformer

LOSSES = ("CELoss", "SigmoidCELoss")


class Supervised(nn.Module):
    """Images → logits, or with labels → (loss, correct predictions).

    uint8 images are normalised here, where the model runs, to [-1, 1]: (x / 255 - 0.5) / 0.5.

    Args:
        model: classifier of normalised images, (B, 3, H, W) -> (B, C).
        loss: "CELoss", softmax cross-entropy, or "SigmoidCELoss", the sum of one binary cross-entropy per class; both
            are means over the samples.
    """

    def __init__(self, model: VisionTransformer, loss: str = "CELoss") -> None:
        super().__init__()
        assert loss in LOSSES
        self.model = model
        self.loss = loss

    def forward(
        self, images: Tensor, labels: Optional[Tensor] = None, mix: Optional[Tensor] = None
    ) -> Union[Tensor, Tuple[Tensor, Tensor]]:
        """Images (B, 3, H, W), uint8 or normalised floats; labels (B,), integers; mix (1,), mixup's coefficient.

        With λ = mix each sample becomes λ of itself and 1 - λ of the one before it, the last one for the first, and
        so do loss and hits (Zhang et al. 2018, arXiv:1710.09412, section 2).

        Returns:
            Logits (B, C); with labels the mean loss, float32, and the number of correct predictions, float32.
        """
        weights_dtype = next(self.model.parameters()).dtype
        if images.dtype == torch.uint8:
            images = images.to(weights_dtype) / 127.5 - 1.0
        images = images.to(weights_dtype)
        if mix is not None:
            mix = mix.to(weights_dtype)  # rounded once, so that labels are mixed as the images are
            images = mix * images + (1 - mix) * images.roll(1, 0)
        logits = self.model(images)
        if labels is None:
            return logits
        loss, correct = self._score(logits, labels)
        if mix is not None:
            share = mix.float()
            other_loss, other_correct = self._score(logits, labels.roll(1, 0))
            loss = share * loss + (1 - share) * other_loss
            correct = share * correct + (1 - share) * other_correct
        return poptorch.identity_loss(loss, "mean"), correct

    def _score(self, logits: Tensor, labels: Tensor) -> Tuple[Tensor, Tensor]:
        """Mean loss of (B, C) logits and number of correct predictions, both float32."""
        if self.loss == "CELoss":
            loss = F.cross_entropy(logits.float(), labels)
        else:
            targets = F.one_hot(labels.long(), logits.shape[-1]).float()
            loss = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="sum") / len(labels)
        return loss, (logits.argmax(dim=-1) == labels).float().sum()
