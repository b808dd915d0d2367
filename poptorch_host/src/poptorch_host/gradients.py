"""Gradients of one update: accumulated over micro-batches, reduced over replicas.

The table of PopTorch's arithmetic (sum and mean, Post and Running) is in `Accumulation`'s description; the
division by the loss scale, and by GA·R under Post, belongs to the optimizer.
"""

from __future__ import annotations

from typing import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from poptorch_host.distributed import add_up
from poptorch_host.precision import round_to_half


class Accumulation:
    """Gradients by name, from the weights' `.grad` or from buffers of another type.

    A buffer of `dtype` holds s += g, or with `running` s = f/(f+1)·s + g/(f+1) for the f-th micro-batch (f = 0, 1, …);
    replicas are then added (sum, Post) or averaged (Running). In "fast" numerics buffers are float32 and Running is
    the average of the sum, so that replicas, which run one after another, share one buffer.
    """

    def __init__(
        self,
        weights: dict[str, nn.Parameter],
        *,
        dtype: torch.dtype,
        accumulation: int,
        replicas: int,
        total_replicas: int,
        running: bool,
        exact: bool,
        stochastic: bool,
        group: dist.ProcessGroup | None,
    ) -> None:
        self._weights = weights
        self._accumulation = accumulation
        self._total_replicas = total_replicas
        self._running = running
        self._exact = exact
        self._stochastic = stochastic
        self._group = group
        self._replica = 0
        self._filled: list[dict[str, int]] = [{} for _ in range(replicas)]  # micro-batches in each buffer
        self._buffers: list[dict[str, Tensor]] = [{} for _ in range(replicas if exact else 1)]
        self._handles = [
            p.register_post_accumulate_grad_hook(self._collector(name, self._buffer_type(p, dtype)))
            for name, p in weights.items()
            if exact or p.dtype != torch.float32
        ]

    def _buffer_type(self, weight: Tensor, dtype: torch.dtype) -> torch.dtype:
        if not self._exact:
            return torch.float32
        return dtype if self._accumulation > 1 else weight.dtype  # PopART keeps no buffer for one micro-batch

    def clear(self) -> None:
        """Forget what an interrupted call has left behind."""
        for weight in self._weights.values():
            weight.grad = None
        for filled in self._filled:
            filled.clear()

    def begin(self, replica: int) -> None:
        """Say which local replica the next backward pass belongs to."""
        self._replica = replica

    def _collector(self, name: str, dtype: torch.dtype) -> Callable[[Tensor], None]:
        def collect(weight: Tensor) -> None:
            gradient, weight.grad = weight.grad, None
            assert gradient is not None
            slot = self._replica if self._exact else 0
            buffer, count = self._buffers[slot].get(name), self._filled[slot].get(name, 0)
            if buffer is None:
                buffer = self._buffers[slot][name] = torch.empty_like(gradient, dtype=dtype)
            self._accumulate(buffer, gradient, count)
            self._filled[slot][name] = count + 1

        return collect

    def _accumulate(self, buffer: Tensor, gradient: Tensor, count: int) -> None:
        if count == 0:
            buffer.copy_(gradient)
        elif not self._exact:
            buffer.add_(gradient)
        else:
            old, new = buffer.float(), gradient.float()
            total = old * (count / (count + 1)) + new / (count + 1) if self._running else old + new
            buffer.copy_(round_to_half(total, self._stochastic) if buffer.dtype == torch.float16 else total)

    @torch.no_grad()
    def reduce(self) -> dict[str, Tensor]:
        """Return this update's gradients, reduced over all replicas, and begin the next update.

        The tensors are valid until the next backward pass.
        """
        first = self._buffers[0]
        gradients: dict[str, Tensor] = {}
        for name, weight in self._weights.items():
            if weight.grad is not None:
                gradients[name], weight.grad = weight.grad, None
            elif name in self._filled[0]:
                gradients[name] = first[name]
        values = list(gradients.values())
        for others in self._buffers[1:]:
            torch._foreach_add_([first[name] for name in others], list(others.values()))
        add_up(values, self._group)
        divisor = self._total_replicas * (1 if self._exact else self._accumulation)
        if self._running and divisor > 1 and values:
            torch._foreach_div_(values, divisor)
        for filled in self._filled:
            filled.clear()
        return gradients

    def close(self) -> None:
        """Take the hooks off the weights."""
        for handle in self._handles:
            handle.remove()
