"""What the app's scripts need of the Poplar SDK up to --dry-run, and nothing else: any other name fails.

`install()` puts stand-ins of poptorch, popart and popdist, with the names and arguments that PopTorch 3.4 documents,
where they can be imported from.
"""

import os
import sys
from enum import IntEnum
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import torch

BLOCKS: list = []  # (name, IPU) of each BeginBlock


class Recorder:
    """Takes any call of any depth, as an options object does, and notes it in `calls`."""

    def __init__(self, calls=None, path=""):
        self.calls, self._path = [] if calls is None else calls, path

    def __getattr__(self, name):
        return Recorder(self.calls, f"{self._path}.{name}".strip("."))

    def __call__(self, *arguments):
        self.calls.append((self._path, arguments))
        return self


class Options(Recorder):
    """poptorch.Options."""


class PoprunOptions(Options):
    """popdist.poptorch.Options."""

    def __getattr__(self, name):
        if name == "replicationFactor":
            raise RuntimeError("PopRun sets it")
        return super().__getattr__(name)


class AdamW(torch.optim.Optimizer):
    """poptorch.optim.AdamW."""

    def __init__(
        self,
        params,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.01,
        bias_correction=True,
        loss_scaling=None,
        accum_type=None,
        first_order_momentum_accum_type=None,
        second_order_momentum_accum_type=None,
        max_grad_norm=None,
    ):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})


class Executor:
    """What poptorch.trainingModel returns."""

    def __init__(self, model, options, optimizer):
        assert isinstance(model, torch.nn.Module)
        assert isinstance(options, Options)
        assert isinstance(optimizer, AdamW)


def begin_block(module, user_id, ipu_id):
    """poptorch.BeginBlock."""
    BLOCKS.append((user_id, ipu_id))
    return module


def _names(*names):
    return SimpleNamespace(**{name: name for name in names})


def _count(name):
    return lambda: int(os.environ[f"POPDIST_NUM_{name}_REPLICAS"])


def install():
    """Make the stand-ins importable; returns poptorch's."""
    contents = {
        "poptorch": {
            "__version__": "3.4.0",
            "Error": type("Error", (Exception,), {}),
            "BeginBlock": begin_block,
            "Options": Options,
            "TensorLocationSettings": Recorder,
            "PipelinedExecution": lambda *stages: ("pipelined", *stages),
            "ShardedExecution": lambda *stages: ("sharded", *stages),
            "trainingModel": Executor,
            "isRunningOnIpu": lambda: False,
            "AutoStage": _names("SameAsIpu", "AutoIncrement"),
            "OutputMode": _names("All", "Final"),
            "ReductionType": _names("Mean", "Sum"),
            "MeanReductionStrategy": _names("Running", "Post"),
        },
        "poptorch.optim": {"AdamW": AdamW},
        "popart": {
            "AccumulateOuterFragmentSchedule": IntEnum("Schedule", "OverlapMemoryOptimized"),
            "SyntheticDataMode": IntEnum("SyntheticDataMode", "RandomNormal"),
        },
        "popdist": {
            "isPopdistEnvSet": lambda: "POPDIST_NUM_TOTAL_REPLICAS" in os.environ,
            "getNumTotalReplicas": _count("TOTAL"),
            "getNumLocalReplicas": _count("LOCAL"),
        },
        "popdist.poptorch": {"Options": PoprunOptions},
    }
    for name, content in contents.items():
        module = ModuleType(name)
        module.__dict__.update(content, __spec__=ModuleSpec(name, None, is_package=True), __path__=[])
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    return sys.modules["poptorch"]
