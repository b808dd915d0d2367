"""Scaled dot-product attention: an explicit path, torch's fused one, and the choice between them.

Shape letters: B batch, H heads, N tokens, R rows asked for, E width of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attention_probabilities(q: Tensor, k: Tensor) -> Tensor:
    """Softmax of the scaled query-key products, (B, H, R, E) and (B, H, N, E) -> (B, H, R, N); rows sum to one."""
    return (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)


def explicit_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    """Attention in plain tensor operations, (B, H, R, E) and two (B, H, N, E) -> (B, H, R, E)."""
    return F.dropout(attention_probabilities(q, k), dropout) @ v


def fused_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    """Attention in torch's fused kernels, (B, H, R, E) and two (B, H, N, E) -> (B, H, R, E)."""
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)


def prefers_fused(q: Tensor) -> bool:
    """Whether the fused path is the faster one for tensors such as `q`.

    CUDA has flash kernels, and a CPU fused float32 ones. In bfloat16 torch's backward pass is slow on a CPU, and
    Habana's bridge makes one graph of plain operations.
    """
    return q.device.type == "cuda" or (q.device.type == "cpu" and q.dtype != torch.bfloat16)


def attend(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """Attention by the path that is faster for this device and dtype, (B, H, R, E), two (B, H, N, E) -> (B, H, R, E).

    `dropout` is the probability with which attention weights are dropped; give 0 outside training.
    """
    path = fused_attention if prefers_fused(q) else explicit_attention
    return path(q, k, v, dropout)
