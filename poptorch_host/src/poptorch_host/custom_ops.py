"""`custom_op`: operators that a program brings along for the IPU, and what stands for them on a host."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor

from poptorch_host.errors import Error

Attributes = Dict[str, Any]
HostFunction = Callable[[Sequence[Tensor], Attributes], Union[Tensor, Sequence[Tensor]]]

_functions: Dict[Tuple[str, str], HostFunction] = {}


def register_custom_op(name: str, domain: str, function: HostFunction) -> None:
    """Let `function(inputs, attributes)` stand for the operator `name` of `domain` on hosts.

    It returns one tensor or a sequence of them, and autograd differentiates it. A second registration replaces
    the first.
    """
    _functions[name, domain] = function


def custom_op(
    inputs: Sequence[Tensor],
    name: str,
    domain: str,
    domain_version: int,  # noqa: ARG001
    example_outputs: Sequence[Tensor],
    attributes: Optional[Attributes] = None,
) -> List[Tensor]:
    """Return the outputs of a custom operator.

    `example_outputs`: tensors with the shapes and dtypes that the outputs will have. `attributes`: names to
    floats, ints, strings or lists of one of these, all ASCII (else ValueError). `Error` if the host has no function
    for the operator, or one whose outputs differ from the examples.
    """
    attributes = attributes or {}
    _check_attributes(attributes)
    if (name, domain) not in _functions:
        known = ", ".join(f"{n} ({d})" for n, d in _functions)
        raise Error(
            f'poptorch_host has no function for the custom operator "{name}" of domain "{domain}" (known: {known}): '
            f'give it one with poptorch_host.custom_ops.register_custom_op("{name}", "{domain}", function)'
        )
    result = _functions[name, domain](inputs, attributes)
    outputs = [result] if isinstance(result, Tensor) else list(result)
    expected = [(tuple(o.shape), o.dtype) for o in example_outputs]
    got = [(tuple(o.shape), o.dtype) for o in outputs]
    if got != expected:
        raise Error(f'custom operator "{name}": the host function returned {got}, example_outputs say {expected}')
    return outputs


def _check_attributes(attributes: Attributes) -> None:
    for key, value in attributes.items():
        if not isinstance(key, str):
            raise ValueError(f"attribute keys are strings, not {key!r}")
        elements = value if isinstance(value, (list, tuple)) else [value]
        if not all(isinstance(e, (float, int, str)) for e in elements):
            raise ValueError(f"attribute {key} is none of float, int, str or a list of these: {value!r}")
        if len({type(e) for e in elements}) > 1:
            raise ValueError(f"attribute {key} mixes types: {value!r}")
        for text in [key, *(e for e in elements if isinstance(e, str))]:
            if not text.isascii():
                raise ValueError(f"{text} contains non-ASCII characters")


def _remap(inputs: Sequence[Tensor], attributes: Attributes) -> Union[Tensor, Sequence[Tensor]]:
    """Return the input: "RemapCE" moves data between tiles and changes none.

    Where a program has loaded the operator of that name (torch.ops.remap), tensors on the CPU really take that way.
    """
    operator = getattr(torch.ops.remap, "RemapCE", None)
    if operator is None or any(tensor.device.type != "cpu" for tensor in inputs):
        return inputs
    return operator(*inputs, **attributes)


register_custom_op("RemapCE", "ai.graphcore", _remap)
