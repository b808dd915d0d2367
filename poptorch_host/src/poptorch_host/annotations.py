"""Where a model says how it is laid out over IPUs: blocks and checkpoints.

On a host blocks are counted while the engine traces a forward pass, and change nothing.
"""

from __future__ import annotations

import functools
import threading
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, TypeVar

from torch import Tensor, nn

from poptorch_host.errors import Error
from poptorch_host.execution import ExecutionStrategy, PipelinedExecution

_Callable = TypeVar("_Callable", bound=Callable[..., Any])


class BlockRecord(NamedTuple):
    """A block that was entered: its name, the IPU its author asked for and the IPU it runs on."""

    user_id: str
    asked_ipu: Optional[int]
    ipu: int


class Trace(List[int]):
    """The IPU of every block in executed order; `blocks` tells more about each."""

    def __init__(self, strategy: ExecutionStrategy) -> None:
        super().__init__()
        self.blocks: List[BlockRecord] = []
        self._strategy = strategy
        self._automatic: Dict[str, int] = {}
        self._numbers: Dict[int, str] = {}

    def enter(self, mark: object, user_id: Optional[str], ipu_id: Optional[int]) -> None:
        """Record that the block of `mark` begins; one without a name gets a number when it is first seen."""
        if user_id is None:
            user_id = self._numbers.setdefault(id(mark), str(len(self._numbers)))
        ipu = self._strategy.ipu(user_id, ipu_id, self._automatic)
        self.blocks.append(BlockRecord(user_id, ipu_id, ipu))
        self.append(ipu)


class _State(threading.local):
    trace: Optional[Trace] = None
    executing: bool = False


_state = _State()


@contextmanager
def trace_blocks(strategy: Optional[ExecutionStrategy] = None) -> Iterator[Trace]:
    """Collect the IPU ids of the blocks that begin inside the context, in this thread.

    `strategy` (default `PipelinedExecution()`) places blocks that don't say where they run; AssertionError
    for a block that can't be placed.
    """
    before = _state.trace
    _state.trace = Trace(strategy or PipelinedExecution())
    try:
        yield _state.trace
    finally:
        _state.trace = before


def stage_count(ipu_ids: Sequence[int]) -> int:
    """Return the number of forward pipeline stages: one more than the changes of IPU, starting from IPU 0."""
    return 1 + sum(a != b for a, b in zip([0, *ipu_ids], ipu_ids))


@contextmanager
def running_on_ipu() -> Iterator[None]:
    """Mark what runs inside, in this thread, as a program on the device; for the engine."""
    before = _state.executing
    _state.executing = True
    try:
        yield
    finally:
        _state.executing = before


def isRunningOnIpu() -> bool:
    """Say whether the caller runs inside a wrapped model, i.e. where PopTorch would trace it for the IPU."""
    return _state.executing or _state.trace is not None


def _enter(mark: object, user_id: Optional[str], ipu_id: Optional[int]) -> None:
    if _state.trace is not None:
        _state.trace.enter(mark, user_id, ipu_id)


class _BlockHook:
    """The forward pre-hook by which `BeginBlock` marks a module."""

    def __init__(self, user_id: Optional[str], ipu_id: Optional[int]) -> None:
        self.user_id = user_id
        self.ipu_id = ipu_id

    def __call__(self, *_: Any) -> None:
        _enter(self, self.user_id, self.ipu_id)

    def __repr__(self) -> str:
        return f"BeginBlock(user_id={self.user_id}, ipu_id={self.ipu_id})"


def BeginBlock(layer_to_call: _Callable, user_id: Optional[str] = None, ipu_id: Optional[int] = None) -> _Callable:
    """Begin a block, named `user_id` and on IPU `ipu_id`, wherever `layer_to_call` is called.

    A module is returned itself, a function in a wrapper. `Error` for anything else and for a module that
    begins a block already.
    """
    if isinstance(layer_to_call, nn.Module):
        if any(isinstance(hook, _BlockHook) for hook in layer_to_call._forward_pre_hooks.values()):
            raise Error("BeginBlock has already been applied to this module: use removeBlocks first")
        layer_to_call.register_forward_pre_hook(_BlockHook(user_id, ipu_id))
        return layer_to_call
    if not callable(layer_to_call):
        raise Error(f"BeginBlock takes a module or a function, not {type(layer_to_call).__name__}")
    return BlockFunction(user_id, ipu_id)(layer_to_call)


def removeBlocks(module: nn.Module) -> None:
    """Take the marks of `BeginBlock` off a module and its submodules; other hooks stay."""
    for layer in module.modules():
        for key, hook in list(layer._forward_pre_hooks.items()):
            if isinstance(hook, _BlockHook):
                del layer._forward_pre_hooks[key]


class Block:
    """A block around statements: `with poptorch.Block("B", ipu_id=1): …`. What follows stays in it."""

    def __init__(self, user_id: Optional[str] = None, ipu_id: Optional[int] = None) -> None:
        self.user_id = user_id
        self.ipu_id = ipu_id

    @staticmethod
    def useAutoId() -> None:
        """Number unnamed blocks, which happens anyway."""

    def __enter__(self) -> None:
        _enter(self, self.user_id, self.ipu_id)

    def __exit__(self, *exception: object) -> None:
        pass


def BlockFunction(user_id: Optional[str] = None, ipu_id: Optional[int] = None) -> Callable[[_Callable], _Callable]:
    """Return a decorator that makes each call of a function a block."""

    def decorator(function: _Callable) -> _Callable:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            _enter(wrapper, user_id, ipu_id)
            return function(*args, **kwargs)

        return wrapper  # type: ignore[return-value]

    return decorator


def recomputationCheckpoint(*tensors: Any) -> Any:
    """Return the arguments; the SDK recomputes what lies between two such marks in the backward pass.

    One tensor comes back as such, one list or tuple as list or tuple, several tensors as a tuple. ValueError
    for anything that isn't a tensor.
    """
    if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)):
        return type(tensors[0])(_checkpoint(t) for t in tensors[0])
    out = tuple(_checkpoint(t) for t in tensors)
    return out[0] if len(out) == 1 else out


def _checkpoint(tensor: Any) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise ValueError(f"recomputationCheckpoint takes tensors, not {type(tensor).__name__}")
    return tensor
