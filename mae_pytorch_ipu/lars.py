"""LARS (You et al. 2017, arXiv:1708.03888), which PopTorch does not have."""

from __future__ import annotations

from typing import Any, Iterable

import torch
from torch import Tensor


class LARS(torch.optim.SGD):
    """SGD with momentum in which every tensor moves by a share of its own length.

    The gradient g of a matrix w, weight decay included, is scaled by trust · |w| / |g| (by 1 where either is zero)
    before momentum; vectors, such as biases, take plain steps without weight decay.

    Args:
        params: to train.
        lr: learning rate.
        momentum: share of the last step that goes on.
        weight_decay: of matrices.
        trust: length of a step at learning rate 1, as a share of the matrix's.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum)
        self.matrix_decay, self.trust = weight_decay, trust

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Scale the gradients where they are and take SGD's step."""
        assert closure is None, "the gradients have to be there already"
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None or weight.ndim < 2:
                    continue
                weight.grad.add_(weight, alpha=self.matrix_decay)
                length, steepness = torch.linalg.vector_norm(weight), torch.linalg.vector_norm(weight.grad)
                moves = (length > 0) & (steepness > 0)
                weight.grad.mul_(torch.where(moves, self.trust * length / steepness, torch.ones_like(length)))
        return super().step()
