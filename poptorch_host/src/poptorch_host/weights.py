"""The user's weights on the host and the program's on the device.

A training executor makes the user's model "wrapped": its tensors fetch newer values from the device when anything
reads them. The way back happens only on request, so weights changed on the host later are not seen by the device.
"""

from __future__ import annotations

import copy
import copyreg
from typing import Any, Callable, Iterator

import torch
from torch import Tensor, nn

from poptorch_host.precision import cast_module, to_device_type

# Reading these tells nothing about a tensor's values, so they don't fetch.
_METADATA = frozenset(
    {
        *(
            getattr(Tensor, name).__get__
            for name in ("shape", "dtype", "device", "requires_grad", "is_leaf", "grad", "ndim", "layout", "grad_fn")
        ),
        *(getattr(Tensor, name).__set__ for name in ("requires_grad", "grad")),
        *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.nelement, Tensor.element_size, Tensor.is_floating_point),
        *(Tensor.requires_grad_, Tensor.__hash__, Tensor.__len__),
    }
)


class _Fetching:
    """What the wrapped model's parameters and buffers share."""

    _wrapping: Wrapping

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func not in _METADATA:
            for wrapping in _wrappings(args, kwargs or {}):
                wrapping.fetch()
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            memo[id(self)] = _plain(self).clone() if isinstance(self, Buffer) else _plain_parameter(self, clone=True)
        result: Tensor = memo[id(self)]
        return result

    def __reduce_ex__(self, protocol: Any) -> Any:
        plain = _plain(self) if isinstance(self, Buffer) else _plain_parameter(self)
        return plain.__reduce_ex__(protocol)


class Parameter(_Fetching, nn.Parameter):
    """A parameter of a wrapped model."""


class Buffer(_Fetching, Tensor):
    """A buffer of a wrapped model."""


def _plain(tensor: Any) -> Tensor:
    """Return the values as a tensor that fetches nothing, in the same memory."""
    detached: Tensor = tensor.detach()
    return detached


def _plain_parameter(tensor: Any, clone: bool = False) -> nn.Parameter:
    values = _plain(tensor)
    return nn.Parameter(values.clone() if clone else values, tensor.requires_grad)


def _wrappings(*values: Any) -> set[Wrapping]:
    """Return the wrappings of the wrapped tensors among (nested) arguments."""
    found: set[Wrapping] = set()
    for value in values:
        if isinstance(value, _Fetching):
            found.add(value._wrapping)
        elif isinstance(value, (tuple, list)):
            found |= _wrappings(*value)
        elif isinstance(value, dict):
            found |= _wrappings(*value.values())
    return found


def tensors_of(model: nn.Module) -> list[Tensor]:
    """Return a model's parameters and buffers."""
    return [*model.parameters(), *model.buffers()]


def wrappings_of(tensors: list[Tensor]) -> set[Wrapping]:
    """Return the training executors' wrappings that own one of the tensors."""
    return {tensor._wrapping for tensor in tensors if isinstance(tensor, _Fetching)}


class Wrapping:
    """Makes the tensors of a model fetch from the device, until `undo`.

    `download()` copies the device's values into the host's tensors. `stale` says that the device has newer ones;
    `version` counts the changes on the device. RuntimeError if the model is wrapped already.
    """

    def __init__(self, model: nn.Module, download: Callable[[], None]) -> None:
        self._model = model
        self._download = download
        self.stale = False
        self.version = 0
        self.do()

    def do(self) -> None:
        """Wrap the model, or only what has been added to it if this wrapping holds it."""
        owners = wrappings_of(tensors_of(self._model)) - {self}
        holder = vars(type(self._model)).get("_poptorch_wrapped", None)
        if owners or holder not in (None, self):
            raise RuntimeError("The model is wrapped already: destroy() the executor that holds it first")
        if holder is None:
            self._class = type(self._model)
            members = {"_poptorch_wrapped": self, "__reduce_ex__": _reduce_model, "__module__": self._class.__module__}
            self._model.__class__ = type(f"Poptorch{self._class.__name__}", (self._class,), members)
        for tensor in tensors_of(self._model):
            if not isinstance(tensor, _Fetching):
                tensor.__class__ = Parameter if isinstance(tensor, nn.Parameter) else Buffer
                tensor._wrapping = self  # type: ignore[attr-defined]

    def changed(self) -> None:
        """Note that the device's weights are newer."""
        self.stale = True
        self.version += 1

    def fetch(self) -> None:
        """Copy newer values to the host, if there are any."""
        if self.stale:
            self.stale = False
            self._download()

    def undo(self) -> None:
        """Fetch a last time and leave a plain model behind."""
        self.fetch()
        for tensor in tensors_of(self._model):
            if isinstance(tensor, _Fetching) and tensor._wrapping is self:
                tensor.__class__ = nn.Parameter if isinstance(tensor, Parameter) else Tensor  # type: ignore[assignment]
                del tensor._wrapping
        self._model.__class__ = self._class


def _reduce_model(self: nn.Module, protocol: Any) -> Any:
    """Pickle and copy a wrapped model as an object of the user's own class."""
    wrapped = type(self)
    reduced: Any = super(wrapped, self).__reduce_ex__(protocol)
    function, arguments, *rest = reduced
    plain = wrapped.__base__
    if function is copyreg.__newobj__:  # type: ignore[attr-defined]  # pickle insists on the object's own class there
        return (copyreg._reconstructor, (plain, object, None), *rest)  # type: ignore[attr-defined]
    return (function, tuple(plain if a is wrapped else a for a in arguments), *rest)


class DeviceWeights:
    """The executor's own copy of the model on the device.

    `module` computes. `trained` names the tensors that the optimizer changes: the parameters themselves or, where
    those stand for float16 in bfloat16, float32 masters of them, which `refresh` writes back. `finer` are the masters
    and whatever else is float32 here and float16 on the host: the host's values don't tell all of it.
    """

    def __init__(self, model: nn.Module, device: torch.device, exact: bool) -> None:
        self._model = model
        self.module = copy.deepcopy(model)
        cast_module(self.module, exact)
        self.module.to(device)
        _move_plain_attributes(self.module, device, exact)
        parameters = dict(self.module.named_parameters())
        self.masters = {
            name: p.detach().float() for name, p in parameters.items() if p.dtype == torch.bfloat16 and p.requires_grad
        }
        self.trained = {name: self.masters.get(name, p.detach()) for name, p in parameters.items() if p.requires_grad}
        self._low = [parameters[name].detach() for name in self.masters]
        self._high = list(self.masters.values())
        self._stored = {name: p.detach() for name, p in parameters.items()}
        self._stored.update(self.module.named_buffers())
        self._stored.update(self.masters)
        self._frozen = {name for name, p in parameters.items() if not p.requires_grad}
        self.finer = {
            name: self._stored[name]
            for name, host in self._host()
            if host.dtype == torch.float16 and self._stored[name].dtype == torch.float32
        }
        self.upload()

    def refresh(self) -> None:
        """Round the masters to the parameters that compute."""
        if self._high:
            torch._foreach_copy_(self._low, self._high)

    def stored(self) -> list[Tensor]:
        """Return all parameters (masters in place of what they stand for) and buffers on the device."""
        return list(self._stored.values())

    def upload(self) -> None:
        """Copy host to device. A master that rounds to the host's value stays: it is that value, only finer."""
        for name, host in self._host():
            device = self._stored[name]
            device.copy_(_merge(device, host.to(device.device)))
        self.refresh()

    def download(self) -> None:
        """Copy what the program can change, trained parameters and buffers, from device to host."""
        for name, host in self._host():
            if name not in self._frozen:
                host.copy_(_merge(host, self._stored[name].to(host.device)))

    def _host(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in (*self._model.named_parameters(), *self._model.named_buffers()):
            if name in self._stored:
                yield name, _plain(tensor)

    def load_finer(self, saved: dict[str, Tensor]) -> None:
        """Take saved values of `finer` where they round to the host's; elsewhere those are other weights by now."""
        for name, host in self._host():
            if name in self.finer and name in saved:
                device = self.finer[name]
                device.copy_(_merge(saved[name].to(device), host.to(device.device)))
        self.refresh()


def _merge(old: Tensor, new: Tensor) -> Tensor:
    """Return `new` in the type of `old`, keeping the elements of `old` that are equal to it in the type of `new`."""
    return new if old.dtype == new.dtype else torch.where(old.to(new.dtype) == new, old, new.to(old.dtype))


def _move_plain_attributes(module: nn.Module, device: torch.device, exact: bool) -> None:
    """Move tensors that are neither parameters nor buffers; PopTorch sees them as constants of the program."""
    for child in module.modules():
        for name, value in list(vars(child).items()):
            if isinstance(value, Tensor):
                setattr(child, name, value.to(device, to_device_type(value.dtype, exact)))
