"""Exponential moving average of a model's weights, on the host, in float32."""

from __future__ import annotations

from typing import Any, Dict, Optional

import torch
from torch import Tensor, nn

from ipu.evaluation import Evaluator, Score
from models import SwinTransformer


class Ema:
    """The average of a model's parameters over its updates: decay · average + (1 - decay) · weights.

    Only floating-point parameters are averaged: geometry, which a Swin keeps in buffers, follows from its sizes.

    Args:
        model: whose weights are averaged, as they are now to begin with.
        network: another one of the same sizes, which gets the average in its own dtype when it is asked for.
        decay: per update.
    """

    def __init__(self, model: nn.Module, network: SwinTransformer, decay: float) -> None:
        self.network, self.decay = network, decay
        network.requires_grad_(False).eval()
        self.average = {name: value.detach().float().clone() for name, value in _weights(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module, updates: int = 1) -> None:
        """Take in the model's weights after `updates` updates."""
        values = [value.detach().float() for value in _weights(model).values()]
        torch._foreach_lerp_(list(self.average.values()), values, 1 - self.decay**updates)

    def averaged(self) -> SwinTransformer:
        """The network with the average as its weights."""
        with torch.no_grad():
            for name, value in _weights(self.network).items():
                value.copy_(self.average[name])
        return self.network

    def state(self) -> Dict[str, Tensor]:
        """The average by name, for a checkpoint."""
        return self.average

    def restore(self, state: Dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        for name, value in self.average.items():
            value.copy_(state[name])


class EmaEvaluator(Evaluator):
    """Evaluates the average instead of the weights themselves.

    Args:
        ema: whose network the evaluated model holds.
        arguments, settings: of `Evaluator`.
    """

    def __init__(self, ema: Ema, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.ema = ema

    def __call__(self) -> Optional[Score]:
        """Score of the average as it is now, see `Evaluator`."""
        self.ema.averaged()
        if self.executor.isCompiled():
            self.executor.copyWeightsToDevice()  # it was compiled with an older average
        return super().__call__()


def _weights(model: nn.Module) -> Dict[str, Tensor]:
    return {name: value for name, value in model.named_parameters() if value.is_floating_point()}
