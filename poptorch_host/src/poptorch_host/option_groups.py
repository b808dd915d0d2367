"""The named groups inside `Options`: Training, Precision, Distributed, Jit and _Popart."""

from __future__ import annotations

import os
from typing import Any, Dict, List, Set, Union

import torch

from poptorch_host.enums import HalfFloatCastingBehavior, MeanReductionStrategy, ReductionType
from poptorch_host.launcher import World, world
from poptorch_host.logs import without_effect
from poptorch_host.option_base import OptionGroup


class PopartOptions(OptionGroup):
    """`Options._Popart`: settings of the SDK's compiler, in `options`; the engine reads those that matter."""

    options: Dict[str, Any]

    def __init__(self) -> None:
        self.options = {"instrumentWithHardwareCycleCounter": False, "rearrangeAnchorsOnHost": False}

    def set(  # type: ignore[override]
        self, key: str, value: Union[int, float, str, List[str], Set[str], Dict[str, Any]]
    ) -> PopartOptions:
        """Set `key`; neither keys nor values are checked."""
        if self._frozen:
            raise AttributeError("Can't modify frozen Options")
        self.options[key] = value
        return self

    def setEngineOptions(self, engine_options: Dict[str, str]) -> PopartOptions:
        """Set Poplar's engine options."""
        return self.set("engineOptions", engine_options)

    def setPatterns(self, patterns: Dict[str, bool], level: int = 2) -> PopartOptions:
        """Switch graph patterns of the compiler on or off."""
        assert isinstance(level, int), f"level is {type(level).__name__}, not int"
        assert isinstance(patterns, dict), f"patterns is {type(patterns).__name__}, not dict"
        return self.set("patterns_level", level).set("patterns", patterns)


class TrainingOptions(OptionGroup):
    """`Options.Training`."""

    gradient_accumulation: int = 1
    accumulation_and_replication_reduction_type: ReductionType = ReductionType.Mean
    meanAccumulationAndReplicationReductionStrategy: MeanReductionStrategy = MeanReductionStrategy.Post

    def __init__(self, popart: PopartOptions) -> None:
        self._popart = popart

    def gradientAccumulation(self, gradient_accumulation: int) -> TrainingOptions:
        """Set the number of micro-batches whose gradients make one update (default 1)."""
        self.gradient_accumulation = gradient_accumulation
        return self

    def accumulationAndReplicationReductionType(self, reduction_type: ReductionType) -> TrainingOptions:
        """Sum or average (default) gradients over micro-batches and replicas, else ValueError."""
        if not isinstance(reduction_type, ReductionType) or reduction_type == ReductionType.NoReduction:
            raise ValueError(
                "accumulationAndReplicationReductionType must be set to poptorch.ReductionType.Mean or "
                "poptorch.ReductionType.Sum"
            )
        self.accumulation_and_replication_reduction_type = reduction_type
        return self

    def setMeanAccumulationAndReplicationReductionStrategy(
        self, mean_reduction_strategy: MeanReductionStrategy
    ) -> TrainingOptions:
        """Divide a Mean reduction while accumulating (Running) or once at the end (Post, default)."""
        self.meanAccumulationAndReplicationReductionStrategy = mean_reduction_strategy
        return self

    def setAutomaticLossScaling(self, enabled: bool) -> TrainingOptions:
        """Let the loss scale follow the size of the float16 gradients (default off)."""
        self._popart.set("automaticLossScalingSettings.enabled", enabled)
        return self

    def setConvolutionDithering(self, enabled: bool) -> TrainingOptions:
        """Lay convolutions out from different tiles; no effect on a host."""
        without_effect("Training.setConvolutionDithering")
        self._popart.set("convolutionOptions", {"enableConvDithering": enabled})
        return self


class PrecisionOptions(OptionGroup):
    """`Options.Precision`."""

    half_float_casting: HalfFloatCastingBehavior = HalfFloatCastingBehavior.Default
    running_statistics_always_float: bool = False

    def __init__(self, popart: PopartOptions) -> None:
        self._popart = popart

    def enableStochasticRounding(self, enabled: bool) -> PrecisionOptions:
        """Round to float16 at random with the right expectation; acts on a host in numerics "exact"."""
        self._popart.set("enableStochasticRounding", enabled)
        return self

    def enableFloatingPointExceptions(self, enabled: bool) -> PrecisionOptions:
        """Stop at a non-finite loss or gradient, before it reaches the weights (default off)."""
        assert isinstance(enabled, bool), f"enableFloatingPointExceptions needs a bool, not {enabled!r}"
        self._popart.set("enableFloatingPointChecks", enabled)
        return self

    def setPartialsType(self, dtype: torch.dtype) -> PrecisionOptions:
        """Set the type of partial sums, float32 or float16 (else ValueError); no effect on a host."""
        if dtype not in (torch.float32, torch.float16):
            raise ValueError(f"setPartialsType takes torch.float or torch.half, not {dtype}")
        without_effect("Precision.setPartialsType")
        name = "float" if dtype == torch.float32 else "half"
        self._popart.set("partialsTypeMatMuls", name)
        self._popart.set("convolutionOptions", {"partialsType": name})
        return self

    def halfFloatCasting(self, half_float_casting: HalfFloatCastingBehavior) -> PrecisionOptions:
        """Choose how float16 and float32 mix; a host, like PopTorch 3.4, always follows torch's promotion."""
        if not isinstance(half_float_casting, HalfFloatCastingBehavior):
            raise ValueError(f"halfFloatCasting takes a poptorch.HalfFloatCastingBehavior, not {half_float_casting!r}")
        without_effect("Precision.halfFloatCasting")
        self.half_float_casting = half_float_casting
        return self

    def runningStatisticsAlwaysFloat(self, value: bool) -> PrecisionOptions:
        """Keep batch normalisation's running statistics in float32; no effect on a host."""
        if not isinstance(value, bool):
            raise ValueError(f"runningStatisticsAlwaysFloat needs a bool, not {value!r}")
        without_effect("Precision.runningStatisticsAlwaysFloat")
        self.running_statistics_always_float = value
        return self


class DistributedOptions(OptionGroup):
    """`Options.Distributed`: which of how many processes this is.

    A launcher (torchrun, mpirun, poprun) is noticed by itself: `launched` is what it said and what the engine
    and the dealing of rows go by. `configureProcessId` and `setEnvVarNames` give the data loader the numbers
    for PopTorch's own partitioning, one contiguous share of the data set for each process.
    """

    num_distributed_processes: int = 1
    distributed_process_id: int = 0
    ipuof_configs: Dict[int, str]

    def __init__(self) -> None:
        self.ipuof_configs = {}
        self._launched = world()
        self._configured = False
        self.distributed_process_id, self.num_distributed_processes, _ = self._launched

    def disable(self) -> DistributedOptions:
        """Ignore the launcher: this process works alone, on all replicas and the whole data set."""
        self._launched = World(0, 1, 0)
        self._configured = False
        return self.set(num_distributed_processes=1, distributed_process_id=0)

    def setEnvVarNames(self, var_num_processes: str, var_process_id: str) -> DistributedOptions:
        """Read number and id of the processes from environment variables; unset ones mean 1 and 0."""
        return self.configureProcessId(
            int(os.environ.get(var_process_id, "0")), int(os.environ.get(var_num_processes, "1"))
        )

    def configureProcessId(self, process_id: int, num_processes: int) -> DistributedOptions:
        """Give number and id of the processes by hand."""
        self.set(distributed_process_id=process_id, num_distributed_processes=num_processes)
        self._configured = True
        return self

    def IPUoFConfigFiles(self, files: Union[str, List[str]]) -> DistributedOptions:
        """Name the IPU-over-Fabric files; no effect on a host."""
        without_effect("Distributed.IPUoFConfigFiles")
        self.ipuof_configs = dict(enumerate([files] if isinstance(files, str) else files))
        return self

    @property
    def processId(self) -> int:
        """This process."""
        return self.distributed_process_id

    @property
    def numProcesses(self) -> int:
        """All processes."""
        return self.num_distributed_processes

    @property
    def launched(self) -> World:
        """The launcher's (process_id, num_processes, local_id), (0, 1, 0) without one or after `disable`."""
        return self._launched

    @property
    def configured(self) -> bool:
        """Whether the program itself said which process this is."""
        return self._configured


class JitOptions(OptionGroup):
    """`Options.Jit`."""

    trace_model: bool = False

    def traceModel(self, trace_model: bool) -> JitOptions:
        """Choose the SDK's tracer; no effect on a host."""
        without_effect("Jit.traceModel")
        self.trace_model = trace_model
        return self
