"""A linear classifier on frozen features: the device computes the features, the host trains the head.

PopTorch has no LARS, and a head of one matrix costs the host less than the device takes for an image.

Shape letters: S samples of an update on this process, D width, C classes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, List, Tuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import VisionTransformer
from poptorch_host.backend import poptorch
from run import distributed


def without_head(network: VisionTransformer) -> VisionTransformer:
    """The same modules and parameters as one that gives features (B, D)."""
    with torch.device("meta"):
        encoder = VisionTransformer(replace(network.config, num_classes=0))
    for name, module in network.named_children():
        if name != "head":
            setattr(encoder, name, module)
    for name, weight in network.named_parameters(recurse=False):
        setattr(encoder, name, weight)
    return encoder


class HeadTrainer:
    """Trains a head on what an executor computes; stands where a training executor of PopTorch would.

    The batch normalisation takes its statistics from all samples of an update, over all processes, so that a run is
    the same on any number of them.

    Args:
        features: PopTorch's inference executor, images (S·updates, 3, H, W) -> (S·updates, D).
        head: batch normalisation without weights, and a linear layer.
        optimizer: of the linear layer.
        updates: of a call.
    """

    def __init__(self, features: Any, head: nn.Sequential, optimizer: torch.optim.Optimizer, updates: int) -> None:
        self.features, self.optimizer, self.updates = features, optimizer, updates
        self.norm, self.linear = cast(nn.BatchNorm1d, head[0]), cast(nn.Linear, head[1])

    @property
    def rng_state(self) -> List[int]:
        """Of the device."""
        return list(self.features.rng_state)

    @rng_state.setter
    def rng_state(self, state: List[int]) -> None:
        self.features.rng_state = state

    def isCompiled(self) -> bool:  # noqa: N802 (PopTorch's name)
        """Whether the features are."""
        return bool(self.features.isCompiled())

    def compile(self, images: Tensor, labels: Tensor) -> None:  # noqa: ARG002
        """Compile the features for images like these."""
        self.features.compile(images)

    def setOptimizer(self, optimizer: torch.optim.Optimizer) -> None:  # noqa: N802 (PopTorch's name)
        """Nothing: the host trains with the optimizer itself."""
        assert optimizer is self.optimizer

    def __call__(self, images: Tensor, labels: Tensor) -> Tuple[Tensor, Tensor]:
        """Losses and numbers of correct predictions of this process's share of each update, both (updates,).

        Raises:
            poptorch.Error: the loss or a gradient is not finite; the head is as before this update.
        """
        features = self.features(images).float()
        parts = zip(features.chunk(self.updates), labels.chunk(self.updates))
        losses, hits = zip(*(self._update(*part) for part in parts))
        return torch.stack(losses), torch.stack(hits)

    def _update(self, features: Tensor, labels: Tensor) -> Tuple[Tensor, Tensor]:
        """Take one update on features (S, D) and labels (S,)."""
        (samples,) = distributed.all_reduce_sum([len(features)])
        mean = _sum(features.double().sum(dim=0)) / samples  # (D,)
        variance = _sum((features.double() - mean).square().sum(dim=0)) / samples
        x = ((features - mean) / (variance + self.norm.eps).sqrt()).float()
        logits = self.linear(x)
        loss = F.cross_entropy(logits, labels.long(), reduction="sum")
        gradients = torch.autograd.grad(loss / samples, list(self.linear.parameters()))
        for weight, gradient in zip(self.linear.parameters(), gradients):
            weight.grad = _sum(gradient.double()).float()
        if not all(weight.grad.isfinite().all() for weight in self.linear.parameters() if weight.grad is not None):
            raise poptorch.Error("the loss or a gradient is not finite; the head is as it was before")
        self.optimizer.step()
        self._remember(mean, variance * samples / max(samples - 1, 1))
        return loss.detach() / len(features), (logits.argmax(dim=-1) == labels).sum()

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        """Move the statistics of evaluation towards those of an update, as torch's batch normalisation does."""
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.num_batches_tracked is not None
        assert norm.momentum is not None
        norm.running_mean.lerp_(mean.float(), norm.momentum)
        norm.running_var.lerp_(variance.float(), norm.momentum)
        norm.num_batches_tracked += 1


def _sum(values: Tensor) -> Tensor:
    """Sum of float64 values, of any shape, over all processes."""
    if distributed.world_size() == 1:
        return values
    return torch.tensor(distributed.all_reduce_sum(values.flatten().tolist()), dtype=torch.float64).reshape(
        values.shape
    )
