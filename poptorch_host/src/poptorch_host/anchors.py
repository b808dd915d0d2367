"""Tensors inside a program that `Options.anchorTensor` asks for."""

from __future__ import annotations

from typing import Any, Callable

import torch
from torch import Tensor

from poptorch_host.enums import OutputMode
from poptorch_host.errors import Error

GRADIENT = "Gradient___"


class Anchors:
    """Keeps anchored tensors of a call, one value for each device iteration.

    A weight is read after the iteration's update; `Gradient___<weight>` is the gradient of that update, reduced over
    micro-batches and replicas and still loss-scaled. Output modes count device iterations: Final keeps the last, Sum
    adds, All and EveryN put values one after another along dimension 0.

    Raises Error for a tensor that the program doesn't have.
    """

    def __init__(self, wanted: dict[str, list[Any]], mode: OutputMode, period: int, names: list[str]) -> None:
        self._wanted: dict[str, tuple[str, OutputMode, int]] = {}
        for short, (name, as_outputs, own_mode, own_period) in wanted.items():
            if name not in names:
                raise Error(f"Can't anchor {name!r} as {short!r}: the program has no such tensor (getTensorNames)")
            chosen = (mode, period) if as_outputs else (OutputMode(own_mode), own_period or 1)
            self._wanted[short] = (name, *chosen)
        self._values: dict[str, list[Tensor]] = {}

    @property
    def names(self) -> list[str]:
        """The program's names of the anchored tensors."""
        return [name for name, _, _ in self._wanted.values()]

    def begin(self) -> None:
        """Forget the last call's values."""
        self._values = {short: [] for short in self._wanted}

    def record(self, iteration: int, read: Callable[[str], Tensor]) -> None:
        """Keep what this device iteration's tensors hold."""
        for short, (name, mode, period) in self._wanted.items():
            values = self._values[short]
            value = read(name).detach().clone()
            if mode == OutputMode.Sum and values:
                value += values.pop()
            elif mode == OutputMode.EveryN and (iteration + 1) % period:
                continue
            elif mode in (OutputMode.Final, OutputMode.Default):
                values.clear()
            values.append(value)

    def get(self, short_name: str) -> Tensor:
        """Return an anchored tensor on the CPU; AssertionError if it isn't anchored or nothing has run."""
        assert short_name in self._wanted, f"No tensor is anchored as {short_name!r}: use Options.anchorTensor"
        values = self._values.get(short_name)
        assert values, "Call the model before reading an anchored tensor"
        if len(values) == 1:
            return values[0].cpu()
        return torch.cat([value.reshape(1) if value.dim() == 0 else value for value in values]).cpu()
