"""Nested state as JSON and safetensors, exactly and without pickle."""

from __future__ import annotations

import math
import struct
from typing import Any, Dict, List, Mapping, Tuple

import torch
from torch import Tensor

# safetensors of every supported version knows these; other types are stored as their bytes.
_NATIVE = {
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
}
_TAGS = ("!tuple", "!items", "!float", "!tensor")


def pack(state: Any) -> Tuple[Any, Dict[str, Tensor]]:
    """Split a nesting of dict, list, tuple, str, int, float, bool, None and Tensor into JSON values and tensors.

    JSON stays readable where it can: lists, finite numbers and dicts with str keys stand for themselves. Tuples,
    dicts with int keys, nan and inf (as the bits of a float64) and references to tensors are objects with one tag.

    Returns:
        The JSON value, and the tensors by name: contiguous, on the CPU, no two of them sharing memory.

    Raises:
        TypeError: a value or key of another type, with its place in the state.
    """
    packer = _Packer()
    return packer.pack(state, ""), packer.tensors


def unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Rebuild what `pack` took apart.

    Raises:
        ValueError, KeyError, AttributeError: the value is not one that `pack` returns.
    """
    if isinstance(value, list):
        return [unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "!tuple" in value:
        return tuple(unpack(item, tensors) for item in value["!tuple"])
    if "!items" in value:
        return {key: unpack(item, tensors) for key, item in value["!items"]}
    if "!float" in value:
        return struct.unpack(">d", bytes.fromhex(value["!float"]))[0]
    if "!tensor" in value:
        return _restore(value, tensors[value["!tensor"]])
    return {key: unpack(item, tensors) for key, item in value.items()}


def _restore(value: Mapping[str, Any], stored: Tensor) -> Tensor:
    if "dtype" not in value:
        return stored
    dtype = getattr(torch, value["dtype"])
    if not isinstance(dtype, torch.dtype):
        raise ValueError("%s is no type of tensors" % value["dtype"])
    return stored.clone().view(dtype).reshape(value["shape"])  # a clone is aligned for every type


class _Packer:
    def __init__(self) -> None:
        self.tensors: Dict[str, Tensor] = {}
        self._storages: Dict[int, Tensor] = {}

    def pack(self, value: Any, place: str) -> Any:
        if value is None or isinstance(value, (bool, str)):
            return value
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else {"!float": struct.pack(">d", value).hex()}
        if isinstance(value, Tensor):
            return self._pack_tensor(value, place)
        if isinstance(value, Mapping):
            return self._pack_mapping(value, place)
        if isinstance(value, (list, tuple)):
            items = [self.pack(item, "%s/%d" % (place, index)) for index, item in enumerate(value)]
            return {"!tuple": items} if isinstance(value, tuple) else items
        raise TypeError("a checkpoint can't hold %s at %s" % (type(value).__name__, place or "its top"))

    def _pack_mapping(self, value: Mapping[Any, Any], place: str) -> Any:
        items: List[List[Any]] = []
        for key, item in value.items():
            if not isinstance(key, (str, int)) or isinstance(key, bool):
                raise TypeError("a checkpoint can't hold the key %r at %s" % (key, place or "its top"))
            items.append([key, self.pack(item, "%s/%s" % (place, key))])
        if all(isinstance(key, str) and key not in _TAGS for key, _ in items):
            return dict(items)
        return {"!items": items}

    def _pack_tensor(self, value: Tensor, place: str) -> Any:
        if value.layout is not torch.strided or value.is_quantized or value.is_meta:
            raise TypeError("a checkpoint can't hold a tensor without plain memory at %s" % (place or "its top"))
        tensor = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
        reference: Dict[str, Any] = {"!tensor": self._free_name(place.strip("/") or "state")}
        if tensor.dtype not in _NATIVE:
            reference.update(dtype=str(tensor.dtype).replace("torch.", ""), shape=list(tensor.shape))
            tensor = tensor.reshape(-1).view(torch.uint8)
        storage = tensor.untyped_storage().data_ptr()
        if storage in self._storages:
            tensor = tensor.clone()
        self._storages[tensor.untyped_storage().data_ptr()] = tensor
        self.tensors[reference["!tensor"]] = tensor
        return reference

    def _free_name(self, name: str) -> str:
        """`name`, numbered where two places read alike, as "a/b" as one key and "a" holding "b" do."""
        free, number = name, 1
        while free in self.tensors or free == "__metadata__":
            number += 1
            free = "%s#%d" % (name, number)
        return free
