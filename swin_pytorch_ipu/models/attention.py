"""Scaled dot-product attention with a bias: an explicit path, torch's fused one, and the choice between them.

Shape letters: B batch, K windows times heads, N tokens of a window, E width of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def prefers_fused(q: Tensor, bias: Tensor) -> bool:
    """Whether the fused path is the faster one for tensors such as `q`.

    A bias that is trained keeps torch from its fused kernels. Without gradients, on a CPU (torch 2.12, one thread,
    49 to 144 tokens, 3 to 24 heads) fused takes 0.8–0.9 of the explicit time in float32 and 1.5–2 times it in
    bfloat16; with gradients 1.1–1.2 times it in float32 and 2–2.5 times it in bfloat16. CUDA has kernels for a bias.
    Devices that trace, such as an IPU, know plain operations only.
    """
    if bias.requires_grad:
        return False
    return q.device.type == "cuda" or (q.device.type == "cpu" and q.dtype == torch.float32)


def prefers_float32_softmax(q: Tensor) -> bool:
    """Whether float32 is the faster type for the softmax: a CPU takes half of bfloat16's time for it."""
    return q.device.type == "cpu" and q.dtype == torch.bfloat16


class Attention(nn.Module):
    """Attention within windows by the path that is faster for the device and dtype.

    Args:
        scale: of the query-key products.
        dropout: probability with which attention weights are dropped in training.
    """

    def __init__(self, scale: float, dropout: float) -> None:
        super().__init__()
        self.scale = scale
        self.dropout = dropout
        self.softmax = nn.Softmax(dim=-1)  # a module, so that hooks see scores and weights on the explicit path

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """Let queries gather, three (B, K, N, E) and a bias (K, N, N) -> (B, K, N, E)."""
        path = self.fused if prefers_fused(q, bias) else self.explicit
        return path(q, k, v, bias)

    def explicit(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """The path in plain tensor operations."""
        if prefers_float32_softmax(q):
            bias = bias.float()  # and with it, by promotion, the scores
        scores = (q * self.scale) @ k.transpose(-2, -1) + bias  # (B, K, N, E) @ (B, K, E, N) -> (B, K, N, N)
        weights = self.softmax(scores).to(q.dtype)
        return F.dropout(weights, self.dropout, self.training) @ v

    def fused(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """The path in torch's fused kernels."""
        # torch 2.0 has no argument for a scale of its own; the kernels' is that of the head's width.
        q = q * (self.scale * q.shape[-1] ** 0.5)
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, bias.to(q.dtype)[None], dropout)
