"""What an executor has to do with the device: weights to and fro, attaching, random numbers."""

from __future__ import annotations

import functools
from typing import Any, Callable, Mapping, TypeVar

import torch
from torch import Tensor, nn

from poptorch_host.errors import Error
from poptorch_host.program import Program
from poptorch_host.training import TrainingProgram
from poptorch_host.weights import Wrapping, tensors_of, wrappings_of

_Method = TypeVar("_Method", bound=Callable[..., Any])


def compiled(method: _Method) -> _Method:
    """Refuse a method (Error) while there is no program."""

    @functools.wraps(method)
    def checked(self: Attachment, *args: Any, **kwargs: Any) -> Any:
        if self._program is None:
            raise Error(f"{method.__name__} needs a compiled model: call compile() or the model first")
        return method(self, *args, **kwargs)

    return checked  # type: ignore[return-value]


class Attachment:
    """The user's model and the program made from it, if there is one."""

    _user_model: nn.Module

    def __init__(self, model: nn.Module) -> None:
        self._user_model = model
        self._program: Program | None = None
        self._wrapping: Wrapping | None = None
        self._attached = False
        self._tensors: list[Tensor] = []
        self._uploaded: dict[Wrapping, int] = {}
        self._random_state: list[int] | None = None

    def state_dict(self, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
        """Return the user's model's state with the device's weights, as plain tensors."""
        return self._user_model.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Any:
        """Load into the user's model and, if attached, on to the device."""
        result = self._user_model.load_state_dict(state_dict, strict=strict)
        if self._attached:
            self.copyWeightsToDevice()
        return result

    @compiled
    def copyWeightsToHost(self) -> None:
        """Copy the device's weights into the user's model now."""
        if self._wrapping is not None:
            self._wrapping.fetch()

    @compiled
    def copyWeightsToDevice(self) -> None:
        """Copy the user's model's weights to the device."""
        assert self._program is not None
        self._program.weights.upload()
        if isinstance(self._program, TrainingProgram):
            self._program.broadcast()
            assert self._wrapping is not None
            self._wrapping.version += 1  # inference executors of this model take the new ones too
        else:
            self._note_versions()

    def _download(self) -> None:
        if self._program is not None:
            self._program.weights.download()

    def _take_newer_weights(self) -> None:
        """Upload if a training executor has changed the model since."""
        known = wrappings_of(self._tensors) | self._uploaded.keys()  # those of destroyed executors too
        if any(self._uploaded.get(w) != w.version for w in known):
            self.copyWeightsToDevice()

    def _note_versions(self) -> None:
        self._tensors = tensors_of(self._user_model)  # kept, as walking a model takes long
        self._uploaded = {wrapping: wrapping.version for wrapping in wrappings_of(self._tensors)}

    def isCompiled(self) -> bool:
        """Say whether there is a program."""
        return self._program is not None

    def isAttachedToDevice(self) -> bool:
        """Say whether the program holds the device."""
        return self._attached

    @compiled
    def attachToDevice(self) -> None:
        """Take the device and copy the weights to it."""
        assert not self._attached, "Already attached to the device"
        self._attached = True
        self.copyWeightsToDevice()

    @compiled
    def detachFromDevice(self) -> None:
        """Copy the weights to the host and release the device; the optimizer's state stays with its optimizer."""
        assert self._attached, "Not attached to a device"
        self.copyWeightsToHost()
        self._attached = False

    @property
    def rng_state(self) -> list[int]:
        """The device's random number generator, as integers; Error before compiling."""
        if self._program is None:
            raise Error("rng_state needs a compiled model: call compile() or the model first")
        return self._program.random_state.view(torch.int64).tolist()

    @rng_state.setter
    def rng_state(self, state: list[int]) -> None:
        self._random_state = list(state)
        if self._program is not None:
            self._program.random_state = torch.tensor(state, dtype=torch.int64).view(torch.uint8)
