"""PopTorch's operators and hints that a model may call in `forward`.

Those that compute do so with torch; hints to the SDK's compiler return their argument. All of them may be called
outside a wrapped model too.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any, Callable, Dict, List, Optional, Sequence, Union

import torch
from torch import Tensor, nn

from poptorch_host.enums import MatMulSerializationMode, MultiConvPlanType, OverlapMode
from poptorch_host.errors import Error

_library = torch.library.Library("poptorch", "DEF")
_library.define("push_name_scope(str name) -> ()")
_library.define("pop_name_scope() -> ()")
_library.impl("push_name_scope", lambda _: None, "CompositeExplicitAutograd")
_library.impl("pop_name_scope", lambda: None, "CompositeExplicitAutograd")


def _tensor(value: Any, function: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise Error(f"{function} takes a tensor, not {type(value).__name__}")
    return value


def nop(tensor: Tensor) -> Tensor:
    """Return the tensor."""
    return _tensor(tensor, "nop")


def set_available_memory(tensor: Tensor, available_memory_proportion: float) -> Tensor:  # noqa: ARG001
    """Return the tensor; the SDK limits the temporary memory of the operator that made it."""
    return _tensor(tensor, "set_available_memory")


def set_overlap_for_input(input_tensors: Any, mode: OverlapMode) -> Any:
    """Return the tensors; the SDK copies them to the device while it computes."""
    assert isinstance(mode, OverlapMode), f"{mode!r} is no poptorch.OverlapMode"
    return input_tensors


def set_overlap_for_output(output_tensors: Any, mode: OverlapMode) -> Any:
    """Return the tensors; the SDK copies them to the host while it computes."""
    assert isinstance(mode, OverlapMode), f"{mode!r} is no poptorch.OverlapMode"
    return output_tensors


def serializedMatMul(
    lhs: Tensor,
    rhs: Tensor,
    mode: MatMulSerializationMode,
    factor: int = 0,
    keep_precision: bool = False,
) -> Tensor:
    """Return `lhs @ rhs`; the SDK computes it in `factor` pieces to save memory."""
    assert isinstance(mode, MatMulSerializationMode), f"{mode!r} is no poptorch.MatMulSerializationMode"
    assert isinstance(factor, int), f"factor is {type(factor).__name__}, not int"
    assert isinstance(keep_precision, bool), f"keep_precision is {type(keep_precision).__name__}, not bool"
    return torch.matmul(lhs, rhs)


def ipu_print_tensor(
    tensor: Tensor,
    title: str = "",
    print_gradient: bool = True,
    summarise_threshold: int = 1000,
    edge_items: int = 3,
    max_line_width: int = 80,
    digits: int = 4,
    float_format: str = "auto",  # noqa: ARG001
    separator: str = " ",  # noqa: ARG001
    open_bracket: str = "[",  # noqa: ARG001
    close_bracket: str = "]",  # noqa: ARG001
) -> Tensor:
    """Return the tensor and print it to standard error, and its gradient once that is known."""
    _tensor(tensor, "ipu_print_tensor")

    def show(value: Tensor, suffix: str) -> None:
        before = vars(torch._tensor_str.PRINT_OPTS).copy()
        torch.set_printoptions(
            precision=digits, threshold=summarise_threshold, edgeitems=edge_items, linewidth=max_line_width
        )
        print(f"{title}{suffix}: {value.detach()}", file=sys.stderr)
        vars(torch._tensor_str.PRINT_OPTS).update(before)

    show(tensor, "")
    if print_gradient and tensor.requires_grad:
        tensor.register_hook(lambda gradient: show(gradient, "_gradient"))
    return tensor


def _tensors(values: Any, function: str) -> List[Tensor]:
    if not isinstance(values, list) or not all(isinstance(v, Tensor) for v in values):
        raise ValueError(f"{function} takes a list of tensors, not {values!r}")
    return values


def _as_list(outputs: Union[Tensor, Sequence[Tensor]]) -> List[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def for_loop(
    count: int,
    body: Callable[..., Union[Tensor, Sequence[Tensor]]],
    inputs: List[Tensor],
) -> List[Tensor]:
    """Apply `body` `count` times, each time to what it returned before, and return the last result."""
    outputs = _tensors(inputs, "poptorch.for_loop")
    for _ in range(count):
        outputs = _as_list(body(*outputs))
        if len(outputs) != len(inputs):
            raise Error(f"poptorch.for_loop: the body takes {len(inputs)} tensors and returns {len(outputs)}")
    return outputs


def cond(
    condition: Tensor,
    then_body: Callable[..., Union[Tensor, Sequence[Tensor]]],
    then_inps: List[Tensor],
    else_body: Callable[..., Union[Tensor, Sequence[Tensor]]],
    else_inps: List[Tensor],
) -> List[Tensor]:
    """Return what the chosen body makes of its inputs. `condition`: a tensor with one element."""
    _tensors(then_inps, "poptorch.cond")
    _tensors(else_inps, "poptorch.cond")
    return _as_list(then_body(*then_inps) if bool(condition) else else_body(*else_inps))


def dynamic_slice(tensor: Tensor, dim: int, start: Tensor, size: int, step: int) -> Tensor:
    """Return elements start, start + step, …, below start + size, along `dim`; `start` is a tensor."""
    rows = _tensor(start, "dynamic_slice").reshape(()) + torch.arange(0, size, step, device=start.device)
    return _tensor(tensor, "dynamic_slice").index_select(dim, rows)


def dynamic_update(input: Tensor, src: Tensor, dim: int, start: Tensor, size: int) -> Tensor:
    """Return `input` with `src` in place of the `size` elements from `start` on along `dim`."""
    rows = _tensor(start, "dynamic_update").reshape(()) + torch.arange(size, device=start.device)
    if input.dim() != src.dim() or input.dtype != src.dtype:
        raise Error(f"dynamic_update: {input.dtype} {input.dim()}-d can't take {src.dtype} {src.dim()}-d")
    return _tensor(input, "dynamic_update").index_copy(dim, rows, _tensor(src, "dynamic_update"))


class CPU:
    """A function that runs on the host in the middle of a program; here everything does."""

    def __init__(self, layer_to_call: Callable[..., Any], ID: str) -> None:
        if isinstance(layer_to_call, nn.Module):
            layer_to_call.requires_grad_(False)
        self._layer_to_call = layer_to_call
        self._ID = ID

    def __call__(self, *inputs: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self._layer_to_call(*inputs, **kwargs)


class _Inert(contextlib.ContextDecorator):
    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


class Attribute(_Inert):
    """Attributes for the operators inside, `with poptorch.Attribute(__name=value):`; no effect on a host."""

    def __init__(self, **attributes: Union[str, int, float, Dict[str, Any]]) -> None:
        self.attributes = attributes


class NameScope(_Inert):
    """A name for the operators inside, `with poptorch.NameScope("layer"):`; no effect on a host."""

    def __init__(self, name: str) -> None:
        assert isinstance(name, str), f"a name scope needs a str, not {name!r}"
        self.name = name


class MultiConv(_Inert):
    """Convolutions that the SDK runs side by side, `with poptorch.MultiConv():`; no effect on a host."""

    def availableMemoryProportions(self, value: Union[float, Sequence[float]]) -> MultiConv:
        """Set temporary memory, for all or for each."""
        assert isinstance(value, (float, list, tuple)), f"{value!r} is neither a float nor a list"
        return self

    def partialsTypes(self, value: Union[torch.dtype, Sequence[torch.dtype]]) -> MultiConv:
        """Set the type of partial sums, float32 or float16, for all or for each."""
        for dtype in value if isinstance(value, (list, tuple)) else [value]:
            if dtype not in (torch.float32, torch.float16):
                raise ValueError(f"partialsTypes takes torch.float or torch.half, not {dtype}")
        return self

    def enableConvDithering(self, value: Union[bool, Sequence[bool]]) -> MultiConv:
        """Spread over tiles, for all or for each."""
        if not isinstance(value, (bool, list, tuple)):
            raise ValueError(f"enableConvDithering takes a bool or a list of bools, not {value!r}")
        return self

    def planType(self, value: Optional[MultiConvPlanType]) -> MultiConv:
        """Choose serial or parallel."""
        assert value is None or isinstance(value, MultiConvPlanType), f"{value!r} is no MultiConvPlanType"
        return self

    def perConvReservedTiles(self, value: int) -> MultiConv:
        """Reserve tiles for each convolution."""
        assert isinstance(value, int), f"{value!r} is no int"
        return self

    def cycleBackOff(self, value: float) -> MultiConv:
        """Set the share of cycles that may be lost, 0 to 1."""
        assert isinstance(value, float), f"{value!r} is no float"
        return self
