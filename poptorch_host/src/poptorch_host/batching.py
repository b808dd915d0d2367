"""How a call's arguments are cut into micro-batches and how their outputs are put together again.

Rows lie in the order device iteration, accumulation step, replica, sample (slowest first).
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from poptorch_host.enums import OutputMode
from poptorch_host.errors import Error
from poptorch_host.precision import to_device_type, to_host_type


@dataclass(frozen=True)
class Cut:
    """How many micro-batches one call of this process holds: `replicas` are the local ones."""

    iterations: int
    accumulation: int
    replicas: int

    @property
    def micro_batches(self) -> int:
        """All of a call."""
        return self.iterations * self.accumulation * self.replicas


class Arguments:
    """The arguments of one call as flat leaves, bound to the names in the signature of the model's forward.

    Raises Error if an argument is missing, AssertionError for one too many, an unknown or a duplicate one.
    """

    def __init__(self, signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            bound = signature.bind_partial(*args, **kwargs)
        except TypeError as error:
            raise AssertionError(f"{error} of the model's forward{signature}") from None
        variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        for name, parameter in signature.parameters.items():
            required = parameter.default is parameter.empty and parameter.kind not in variadic
            if required and name not in bound.arguments:
                raise Error(f"The model's forward{signature} needs the argument {name!r}")
        self.leaves, self.spec = tree_flatten((bound.args, bound.kwargs))

    def check_same(self, first: Arguments) -> None:
        """Raise Error if structure, shapes, types or constants differ from the call that compiled the model."""
        if self.spec != first.spec:
            raise Error(f"Argument mismatch: compiled for {first.spec}, called with {self.spec}")
        for index, (new, old) in enumerate(zip(self.leaves, first.leaves)):
            if not _same(new, old):
                raise Error(
                    f"Argument mismatch at tensor or constant {index}: compiled for {_describe(old)}, called with "
                    f"{_describe(new)}. A program's shapes and constants are fixed by its first call"
                )

    def signature_only(self) -> Arguments:
        """Return a copy whose tensors keep shape and type but no data."""
        copy = object.__new__(Arguments)
        copy.spec = self.spec
        copy.leaves = [x.detach().to("meta") if isinstance(x, Tensor) else x for x in self.leaves]
        return copy

    def cut(self, cut: Cut) -> list[list[Any]]:
        """Return the leaves of each micro-batch, tensors cut along dimension 0.

        Raises AssertionError if a tensor's dimension 0 (1 for a scalar) is no multiple of the micro-batches.
        """
        parts = cut.micro_batches
        columns = []
        for leaf in self.leaves:
            if not isinstance(leaf, Tensor):
                columns.append([leaf] * parts)
                continue
            rows = leaf.shape[0] if leaf.dim() else 1
            whole = rows > 0 and rows % parts == 0
            assert whole, (
                f"Dimension 0 of an input of shape {tuple(leaf.shape)} must be a multiple of {parts} = "
                f"{cut.iterations} device iterations x {cut.accumulation} gradient accumulation x {cut.replicas} "
                "replicas of this process"
            )
            columns.append(list(leaf.split(rows // parts)) if parts > 1 else [leaf])
        return [list(row) for row in zip(*columns)] if columns else [[] for _ in range(parts)]

    def rebuild(self, leaves: list[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return one micro-batch's leaves as positional and keyword arguments."""
        args, kwargs = tree_unflatten(leaves, self.spec)
        return args, kwargs


def _same(new: Any, old: Any) -> bool:
    if isinstance(new, Tensor) and isinstance(old, Tensor):
        return new.shape == old.shape and new.dtype == old.dtype
    return type(new) is type(old) and (new is old or bool(new == old))


def _describe(leaf: Any) -> str:
    return f"{tuple(leaf.shape)} {leaf.dtype}" if isinstance(leaf, Tensor) else repr(leaf)


def to_device(leaf: Any, device: torch.device, exact: bool) -> Any:
    """Copy one input to the device in its device type, without waiting for it; non-tensors as they are."""
    if not isinstance(leaf, Tensor):
        return leaf
    leaf = leaf.detach()
    if device.type == "cuda" and not leaf.is_cuda:
        leaf = leaf.pin_memory()  # else the copy would wait for everything queued on the device
    return leaf.to(device, non_blocking=True).to(to_device_type(leaf.dtype, exact))


class Outputs:
    """Collects what the micro-batches of one call return and assembles what the call returns."""

    def __init__(self, mode: OutputMode, period: int, cut: Cut) -> None:
        self._mode = mode
        self._period = period
        self._cut = cut
        self._kept: list[list[Any]] = []
        self._sums: dict[int, list[Any]] = {}

    @property
    def multiplier(self) -> int:
        """How many micro-batches' outputs a returned tensor holds."""
        cut = self._cut
        if self._mode == OutputMode.All:
            return cut.micro_batches
        if self._mode == OutputMode.EveryN:
            return cut.micro_batches // self._period
        return cut.replicas

    def wants(self, iteration: int, step: int) -> bool:
        """Say whether outputs at this position are returned (or summed)."""
        if self._mode == OutputMode.EveryN:
            return (iteration + 1) % self._period == 0
        last = iteration == self._cut.iterations - 1 and step == self._cut.accumulation - 1
        return last or self._mode in (OutputMode.All, OutputMode.Sum)

    def add(self, leaves: list[Any], replica: int) -> None:
        """Take the output leaves of a micro-batch."""
        if self._mode != OutputMode.Sum:
            self._kept.append(leaves)
        elif replica not in self._sums:
            self._sums[replica] = [_widest(x) for x in leaves]
        else:
            self._sums[replica] = [_plus(a, b) for a, b in zip(self._sums[replica], leaves)]

    def assemble(self, spec: TreeSpec, constants: list[Any], dtypes: list[torch.dtype | None]) -> Any:
        """Return the call's result on the CPU.

        `constants` are the non-tensor leaves seen while compiling, `dtypes` the tensors' types on the device.
        """
        rows = [self._sums[r] for r in sorted(self._sums)] if self._mode == OutputMode.Sum else self._kept
        result = [
            constant if dtype is None else _to_host(_join(list(column), self.multiplier), dtype)
            for constant, dtype, column in zip(constants, dtypes, zip(*rows))
        ]
        return tree_unflatten(result, spec)


def _widest(leaf: Any) -> Any:
    half = isinstance(leaf, Tensor) and leaf.dtype in (torch.float16, torch.bfloat16)
    return leaf.float() if half else leaf


def _plus(total: Any, leaf: Any) -> Any:
    return total + leaf if isinstance(leaf, Tensor) else total


def _join(parts: list[Tensor], multiplier: int) -> Tensor:
    if multiplier == 1:
        return parts[0]
    return torch.cat([part.reshape(1) if part.dim() == 0 else part for part in parts])


def _to_host(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    result = tensor.to(to_host_type(dtype)).to("cpu").contiguous()
    result.backward = no_backward  # type: ignore[method-assign]
    return result


def no_backward(*_: Any, **__: Any) -> None:
    """Stand in for `backward` on the tensors that a call returns: raises Error."""
    raise Error("backward() can't be called on the output of a wrapped model: the program runs its own backward pass")
