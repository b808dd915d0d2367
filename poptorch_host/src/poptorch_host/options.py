"""`Options`: everything a program may say about how a model runs (PopTorch 3.4).

Setters return the object they were called on, so they chain. What has no meaning on a host is accepted, kept
for reading back, and mentioned once at debug level.
"""

from __future__ import annotations

import copy
import os
from typing import Any, Dict, List, Optional

import torch

from poptorch_host.device_options import DeviceOptions
from poptorch_host.enums import CommGroupType, ConnectionType, OutputMode
from poptorch_host.errors import Error
from poptorch_host.execution import (
    ExecutionStrategy,
    ParallelPhasedExecution,
    Phase,
    PipelinedExecution,
    SerialPhasedExecution,
    ShardedExecution,
    Stage,
)
from poptorch_host.logs import logger
from poptorch_host.option_files import ConfigFileError, apply_file, apply_json
from poptorch_host.option_groups import (
    DistributedOptions,
    JitOptions,
    PopartOptions,
    PrecisionOptions,
    TrainingOptions,
)
from poptorch_host.tensor_locations import TensorLocationOptions, TensorLocationSettings

__all__ = [
    "ConfigFileError",
    "Options",
    "ParallelPhasedExecution",
    "Phase",
    "PipelinedExecution",
    "SerialPhasedExecution",
    "ShardedExecution",
    "Stage",
    "TensorLocationSettings",
]


class Options(DeviceOptions):
    """How a model is cut into batches, replicated and run.

    The attributes below can be read back; those without a default raise AttributeError until they are set.
    Groups: `Training`, `Precision`, `Distributed`, `TensorLocations`, `Jit`, `_Popart`. A data loader or a
    wrapped model freezes the object ("Can't modify frozen Options"); `clone()` and `copy.deepcopy` give one
    that is free again. On a host `replication_factor` counts the replicas of all processes of a launcher,
    `local_replicas` those of this process.
    """

    replication_factor: int = 1
    input_group_size: int = 1
    broadcast_buffers: bool = True
    device_iterations: int = 1
    auto_round_num_ipus: bool = False
    anchored_tensors: Dict[str, List[Any]]
    output_mode: int = int(OutputMode.Default)
    output_return_period: int = 1
    connection_type: int = int(ConnectionType.Always)
    random_seed: int
    ipu_version: int
    updatable_named_buffers: List[str]

    def __init__(self) -> None:
        super().__init__()
        self._training = TrainingOptions(self._popart)
        self._precision = PrecisionOptions(self._popart)
        self._distributed = DistributedOptions()
        self._tensor_locations = TensorLocationOptions()
        self._jit = JitOptions()
        self._execution_strategy: ExecutionStrategy = PipelinedExecution()
        self._relax_optimizer_checks = False
        self.anchored_tensors = {}
        self.updatable_named_buffers = []
        if os.environ.get("POPTORCH_CACHE_DIR"):
            self.enableExecutableCaching(os.environ["POPTORCH_CACHE_DIR"])
        apply_json(self, os.environ.get("POPTORCH_DEFAULT_OPTIONS") or "{}")

    @property
    def Training(self) -> TrainingOptions:
        """Gradient accumulation and reduction."""
        return self._training

    @property
    def Precision(self) -> PrecisionOptions:
        """Rounding, partial sums and floating-point checks."""
        return self._precision

    @property
    def Distributed(self) -> DistributedOptions:
        """Processes."""
        return self._distributed

    @property
    def TensorLocations(self) -> TensorLocationOptions:
        """Where tensors live."""
        return self._tensor_locations

    @property
    def Jit(self) -> JitOptions:
        """The SDK's tracer."""
        return self._jit

    @property
    def _Popart(self) -> PopartOptions:
        """The SDK's compiler."""
        return self._popart

    def deviceIterations(self, device_iterations: int) -> Options:
        """Set how often a call repeats its program, each time on new data (default 1)."""
        self.device_iterations = device_iterations
        return self

    def replicationFactor(self, replication_factor: int) -> Options:
        """Set how many copies of the model work on different rows (default 1)."""
        self.replication_factor = replication_factor
        return self

    def inputReplicaGrouping(self, input_group_size: int, input_group_type: CommGroupType) -> Options:
        """Give `input_group_size` replicas the same rows; a host knows groups of 1 only (`Error`)."""
        assert isinstance(input_group_type, CommGroupType), f"{input_group_type!r} is no poptorch.CommGroupType"
        if input_group_size != 1:
            raise Error("poptorch_host can't give the same rows to several replicas: use an input_group_size of 1")
        self.input_group_size = input_group_size
        return self

    def outputMode(self, output_mode: OutputMode, output_return_period: Optional[int] = None) -> Options:
        """Choose whose outputs a call returns; EveryN needs a positive `output_return_period`."""
        assert isinstance(output_mode, OutputMode), f"{output_mode!r} is no poptorch.OutputMode"
        if output_mode == OutputMode.EveryN:
            assert (output_return_period or 0) > 0, "OutputMode.EveryN needs a positive output_return_period"
        elif output_return_period:
            logger.info("output_return_period is ignored with output mode %s", output_mode.name)
        return self.set(output_mode=int(output_mode), output_return_period=output_return_period or 1)

    def defaultOutputMode(self) -> bool:
        """Say whether the output mode is still to be chosen by the executor."""
        return self.output_mode == OutputMode.Default

    def anchorTensor(
        self,
        short_name: str,
        long_name: str,
        output_mode: Optional[OutputMode] = None,
        output_return_period: Optional[int] = 1,
    ) -> None:
        """Have `long_name` read back under `short_name`; `output_mode` None means that of the outputs.

        Kept in `anchored_tensors[short_name]` as [long name, mode is that of the outputs, mode, period].
        Works on frozen options too.
        """
        period = output_return_period if output_mode == OutputMode.EveryN else 1
        self.anchored_tensors[short_name] = [long_name, output_mode is None, output_mode, period]

    def randomSeed(self, random_seed: int) -> Options:
        """Seed torch now and the device generator when a model is wrapped; also orders shuffled data sets."""
        assert isinstance(random_seed, int), f"a random seed is an int, not {random_seed!r}"
        self.random_seed = random_seed
        torch.manual_seed(random_seed)
        return self

    def setExecutionStrategy(self, strategy: ExecutionStrategy) -> Options:
        """Set how blocks become stages (default `PipelinedExecution()`)."""
        assert isinstance(strategy, ExecutionStrategy), f"{strategy!r} is no execution strategy"
        self._execution_strategy = strategy
        return self

    def enableSyntheticData(self, enabled: bool) -> Options:
        """Generate inputs on the device and return no outputs."""
        self._popart.set("syntheticDataMode", 2 if enabled else 0)
        return self

    def relaxOptimizerAttributesChecks(self, relax: bool = True) -> Options:
        """Report unknown optimizer attributes at debug level instead of warning."""
        self._relax_optimizer_checks = relax
        return self

    def broadcastBuffers(self, broadcast_buffers: bool = True) -> Options:
        """Keep the replicas' buffers equal."""
        self.broadcast_buffers = broadcast_buffers
        return self

    def updatableNamedBuffers(self, buffers: List[str]) -> Options:
        """Name the buffers that the program may change on the host between calls."""
        self.updatable_named_buffers = buffers
        return self

    def autoRoundNumIPUs(self, auto_round_num_ipus: bool = True) -> Options:
        """Round the number of IPUs up to a power of two instead of failing."""
        self.auto_round_num_ipus = auto_round_num_ipus
        return self

    def connectionType(self, connection_type: ConnectionType) -> Options:
        """Set when the device is attached; Never means that nothing can run."""
        assert isinstance(connection_type, ConnectionType), f"{connection_type!r} is no poptorch.ConnectionType"
        self.connection_type = int(connection_type)
        return self

    def useOfflineIpuTarget(self, ipu_version: int = 2) -> Options:
        """Compile without a device: as connection type Never."""
        self.connectionType(ConnectionType.Never)
        self.ipu_version = ipu_version
        return self

    def loadFromFile(self, filepath: str) -> Options:
        """Apply a file of setter calls, one in a line, without "options.": `deviceIterations(4)`.

        Arguments may be literals, enumerations (`poptorch.OutputMode.All`) and strategies
        (`poptorch.ShardedExecution()`). ConfigFileError names a line that can't be applied.
        """
        apply_file(self, filepath)
        return self

    @property
    def local_replicas(self) -> int:
        """The replicas of this process: R / P under a launcher with P processes, `Error` if not whole."""
        processes = self._distributed.launched.num_processes
        if self.replication_factor % processes:
            raise Error(
                f"replicationFactor({self.replication_factor}) can't be dealt out to {processes} processes: "
                f"choose a multiple of {processes}, or start as many processes as divide it"
            )
        return self.replication_factor // processes

    def clone(self) -> Options:
        """Return a copy that isn't frozen."""
        return copy.deepcopy(self)
