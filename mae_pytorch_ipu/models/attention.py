"""Scaled dot-product attention: an explicit path, torch's fused one, and the choice between them.

Shape letters: B batch, H heads, N tokens, E width of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attention_probabilities(q: Tensor, k: Tensor) -> Tensor:
    """Softmax of the scaled query-key products, two (B, H, N, E) -> (B, H, N, N); rows sum to one."""
    return (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)


def explicit_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention in plain tensor operations, three (B, H, N, E) -> (B, H, N, E)."""
    return attention_probabilities(q, k) @ v


def fused_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention in torch's fused kernels, three (B, H, N, E) -> (B, H, N, E)."""
    return F.scaled_dot_product_attention(q, k, v)


def prefers_fused(q: Tensor) -> bool:
    """Whether the fused path is the faster one for tensors such as `q`.

    CUDA has flash kernels. On a CPU the fused backward pass in bfloat16 is slow, and float32 is about even. Devices
    that trace, such as an IPU, know plain operations only.
    """
    return q.device.type == "cuda" or (q.device.type == "cpu" and q.dtype != torch.bfloat16)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention by the path that is faster for this device and dtype, three (B, H, N, E) -> (B, H, N, E)."""
    path = fused_attention if prefers_fused(q) else explicit_attention
    return path(q, k, v)
