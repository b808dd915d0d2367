"""What torch's functions do inside a wrapped model's forward pass."""

from __future__ import annotations

from typing import Any, Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

from poptorch_host.attention import scaled_dot_product_attention
from poptorch_host.loss import BUILT_IN_LOSSES, is_marker, mark

_Function = Callable[..., Any]


class ForwardMode(TorchFunctionMode):
    """Runs a forward pass as PopTorch would read it.

    Built-in losses become markers; tensors made without a device are made on the executor's; attention goes to the
    kernel that is fastest; and unless `exact`, float16 means bfloat16, and the built-in losses compute in float32 as
    under torch's autocast.
    """

    def __init__(self, device: torch.device, exact: bool) -> None:
        super().__init__()
        self.device = device
        self.exact = exact
        self._handlers: dict[_Function, Callable[[_Function, tuple[Any, ...], dict[str, Any]], Any]] = {
            F.scaled_dot_product_attention: lambda _, args, kwargs: scaled_dot_product_attention(*args, **kwargs),
            **dict.fromkeys(BUILT_IN_LOSSES, self._loss),
        }
        if device != torch.get_default_device():
            self._handlers.update(dict.fromkeys(_device_constructors(), self._make))
        if not exact:
            self._handlers.update({Tensor.to: _to, Tensor.type: _to, Tensor.half: _half})

    def __torch_function__(
        self, func: _Function, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if kwargs is None:
            kwargs = {}
        elif not self.exact and kwargs.get("dtype") is torch.float16:
            kwargs = {**kwargs, "dtype": torch.bfloat16}
        handler = self._handlers.get(func)
        return func(*args, **kwargs) if handler is None else handler(func, args, kwargs)

    def _loss(self, func: _Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        marks = is_marker(func, args, kwargs)
        if not self.exact:
            args = tuple(_widen(a) for a in args)
            kwargs = {name: _widen(value) for name, value in kwargs.items()}
        result = func(*args, **kwargs)
        if marks:
            mark(result)
        return result

    def _make(self, func: _Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if kwargs.get("device") is None:
            kwargs = {**kwargs, "device": self.device}
        return func(*args, **kwargs)


def _widen(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value


def _to(func: _Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(*(torch.bfloat16 if a is torch.float16 else a for a in args), **kwargs)


def _half(_: _Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return Tensor.bfloat16(*args, **kwargs)
