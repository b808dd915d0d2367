"""A classifier with its input normalisation, mixing and loss, as one module for the executors.

Shape letters: B batch, H and W pixels, C classes.
"""

from __future__ import annotations

from typing import Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poptorch_host.backend import poptorch


class Supervised(nn.Module):
    """Images → logits, or with labels → (loss, correct predictions).

    Args:
        model: classifier of normalised images, (B, 3, H, W) -> (B, C).
        mean: of the data's channels, from 0 to 1.
        std: of the data's channels, from 0 to 1.
        smoothing: share of the label that is spread over all classes.
    """

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float], smoothing: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.mean, self.std, self.smoothing = tuple(mean), tuple(std), smoothing

    def forward(
        self,
        images: Tensor,
        labels: Optional[Tensor] = None,
        mix: Optional[Tensor] = None,
        partners: Optional[Tensor] = None,
        partner_labels: Optional[Tensor] = None,
    ) -> Union[Tensor, Tuple[Tensor, Tensor]]:
        """Images (B, 3, H, W), uint8 or normalised floats; labels (B,); mix (B, 6), rows of `dataset.mixing`.

        Partners and their labels are like images and labels; without them they are those of the batch reversed.

        Returns:
            Logits (B, C); with labels the mean loss, float32, and the number of correct predictions, float32, where
            a mixed sample counts its own label and its partner's by their shares.
        """
        images = self._normalise(images)
        if mix is None:
            logits = self._classify(images)
            if labels is None:
                return logits
            losses, correct = self._score(logits, labels)
            return poptorch.identity_loss(losses.mean(), "mean"), correct.sum()
        assert labels is not None
        others = images.flip(0) if partners is None else self._normalise(partners)
        other_labels = labels.flip(0) if partner_labels is None else partner_labels
        logits = self._classify(mixed(images, others, mix))
        share = mix[:, 1].float()
        (losses, correct), (other_losses, other_correct) = (self._score(logits, of) for of in (labels, other_labels))
        loss = (share * losses + (1 - share) * other_losses).mean()
        return poptorch.identity_loss(loss, "mean"), (share * correct + (1 - share) * other_correct).sum()

    def _normalise(self, images: Tensor) -> Tensor:
        return normalised(images, self.mean, self.std) if images.dtype == torch.uint8 else images

    def _classify(self, images: Tensor) -> Tensor:
        return self.model(images.to(next(self.model.parameters()).dtype))

    def _score(self, logits: Tensor, labels: Tensor) -> Tuple[Tensor, Tensor]:
        """Cross-entropies with smoothed labels and hits of (B, C) logits, both (B,) float32."""
        log_probabilities = F.log_softmax(logits.float(), dim=-1)
        loss = F.nll_loss(log_probabilities, labels.long(), reduction="none")
        if self.smoothing:
            loss = (1 - self.smoothing) * loss - self.smoothing * log_probabilities.mean(dim=-1)
        return loss, (logits.argmax(dim=-1) == labels).float()


def normalised(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 (B, 3, H, W) -> the same in float32, (x / 255 - mean) / std by channel, whatever the weights' dtype is."""
    channels = [images[:, index].float() / (255 * s) - m / s for index, (m, s) in enumerate(zip(mean, std))]
    return torch.stack(channels, dim=1)


def mixed(images: Tensor, others: Tensor, mix: Tensor) -> Tensor:
    """`images` and `others`, (B, 3, H, W), mixed as the rows of `mix`, (B, 6), say: by a share, or in a box."""
    share, _, top, bottom, left, right = (column[:, None, None, None] for column in mix.to(images.dtype).unbind(1))
    height, width = images.shape[-2:]
    row = torch.arange(height, device=images.device)[:, None]
    column = torch.arange(width, device=images.device)
    inside = (row >= top) & (row < bottom) & (column >= left) & (column < right)  # (B, 1, H, W)
    return torch.where(inside, others, share * images + (1 - share) * others)
