"""A masked autoencoder with its input normalisation and its masks, as one module for the executors.

Shape letters: B batch, H and W pixels, P patches, V visible patches.
"""

from __future__ import annotations

from typing import Sequence

import torch
from torch import Tensor, nn

from models.mae import MaskedAutoencoder
from models.patches import patchify
from models.supervised import normalised
from poptorch_host.backend import poptorch

_32_BITS = 0xFFFFFFFF


class Reconstruction(nn.Module):
    """Images and what decides their masks → the loss; in evaluation → the loss of each image.

    Args:
        model: of normalised images.
        mean: of the data's channels, from 0 to 1.
        std: of the data's channels, from 0 to 1.
    """

    def __init__(self, model: MaskedAutoencoder, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.mean, self.std = tuple(mean), tuple(std)

    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        """Images (B, 3, H, W) uint8; masks: keys (B,), int64, or matrices (B, P, V) of `models.masking.one_hot`.

        Returns:
            Mean squared error of the masked patches, float32: a scalar in training, (B,) in evaluation.
        """
        images = normalised(images, self.mean, self.std)  # float32, in which targets are made
        noise, keep = (None, masks) if masks.ndim == 3 else (mask_noise(masks, self.model.config.patches), None)
        if self.training:
            return poptorch.identity_loss(self.model(images, noise, keep, loss_only=True), "mean")
        _, prediction, mask = self.model(images, noise, keep)
        targets = self.model.targets(patchify(images, self.model.config.patch_size))
        error = (prediction.float() - targets).square().mean(dim=-1)  # (B, P)
        return (error * mask).sum(dim=-1) / mask.sum(dim=-1)


def mask_noise(keys: Tensor, patches: int) -> Tensor:
    """Uniform noise (B, P), float32 in [0, 1), that depends on each sample's key (B,), int64, alone.

    A counter-based generator, the 32-bit finaliser of MurmurHash3 over key and patch number: the same numbers on every
    device and in a loading process, whatever batch the sample is in.
    """
    low, high = keys[:, None] & _32_BITS, (keys[:, None] >> 32) & _32_BITS
    counter = torch.arange(1, patches + 1, device=keys.device) * 0x9E3779B9
    hashed = _scramble(_scramble((low + counter) & _32_BITS) ^ high)
    return (hashed >> 8).float() / 2**24  # 24 bits are what float32 holds exactly


def _scramble(x: Tensor) -> Tensor:
    """Spread 32 bits of int64 numbers over all 32."""
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & _32_BITS
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & _32_BITS
    return x ^ (x >> 16)
