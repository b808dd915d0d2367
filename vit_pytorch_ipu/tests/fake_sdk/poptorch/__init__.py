"""What the app's scripts need of the Poplar SDK's poptorch up to --dry-run, and nothing else: any other name fails."""

import torch
from torch import nn

from . import optim as optim

__version__ = "3.4.0"
blocks: list = []


class Error(Exception):
    pass


def BeginBlock(module: nn.Module, user_id: str, ipu_id: int) -> nn.Module:
    blocks.append((user_id, ipu_id))
    return module


def recomputationCheckpoint(tensor):
    return tensor


class _Recorder:
    """Takes any call of any depth, as an options object does, and notes it."""

    def __init__(self, calls, path=""):
        self._calls, self._path = calls, path

    def __getattr__(self, name):
        return _Recorder(self._calls, f"{self._path}.{name}".strip("."))

    def __call__(self, *arguments):
        self._calls.append((self._path, arguments))
        return self


class Options(_Recorder):
    def __init__(self):
        super().__init__([])


def TensorLocationSettings():
    return _Recorder([])


def PipelinedExecution(*stages):
    return stages


class trainingModel:
    def __init__(self, model: nn.Module, options: Options, optimizer: torch.optim.Optimizer) -> None:
        assert isinstance(options, Options)
        assert isinstance(optimizer, torch.optim.Optimizer)


class _Names:
    def __init__(self, *names):
        for name in names:
            setattr(self, name, name)


AutoStage = _Names("SameAsIpu")
OutputMode = _Names("All", "Final")
ReductionType = _Names("Mean", "Sum")
