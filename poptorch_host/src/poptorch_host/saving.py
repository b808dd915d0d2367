"""Executors in files: what PopTorch writes beside an executable is all that a host needs to make the program again."""

from __future__ import annotations

from typing import Any, Callable

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from poptorch_host.errors import Error
from poptorch_host.executor import PoplarExecutor, inferenceModel, trainingModel
from poptorch_host.misc import __version__
from poptorch_host.optim import Optimizer
from poptorch_host.options import Options

_VERSIONS = {"poptorch_host": __version__, "torch": torch.__version__}


def save(executor: PoplarExecutor, filename: str) -> None:
    """Write a compiled executor to a file; Error before compiling.

    The file is a pickle of the user's classes: `load` only files that you trust.
    """
    program, optimizer = executor._program, executor._optimizer
    if program is None:
        raise Error("save needs a compiled model: call compile() or the model first")
    executor.copyWeightsToHost()
    if isinstance(optimizer, Optimizer) and optimizer._device is not None:
        optimizer._ipu_state = optimizer._device.state()
    args, kwargs = program.first.rebuild(program.first.leaves)
    content = {
        "versions": _VERSIONS,
        "model": executor.model,
        "train_flag": executor._train_flag,
        "options": executor.options,
        "optimizer": optimizer,
        "arguments": (args, kwargs),
        "rng_state": executor.rng_state,
    }
    torch.save(content, filename)


def load(filename: str, edit_opts_fn: Callable[[Options], Any] | None = None) -> PoplarExecutor:
    """Return a compiled executor as it was saved; `edit_opts_fn` may change its options first.

    Raises Error if the file comes from other versions of poptorch_host or torch.
    """
    content = torch.load(filename, weights_only=False)
    if content["versions"] != _VERSIONS:
        raise Error(f"{filename} was saved with {content['versions']} and can't be loaded with {_VERSIONS}")
    options = content["options"].clone()
    if edit_opts_fn is not None:
        edit_opts_fn(options)
    if content["optimizer"] is None:
        executor = inferenceModel(content["model"], options)
    else:
        executor = trainingModel(content["model"], options, content["optimizer"])
    args, kwargs = tree_map(_zeros, content["arguments"])
    executor._train_flag = content["train_flag"]
    executor.compile(*args, **kwargs)
    executor.rng_state = content["rng_state"]
    return executor


def _zeros(leaf: Any) -> Any:
    return torch.zeros_like(leaf, device="cpu") if isinstance(leaf, Tensor) else leaf
