"""Options of a program that PopRun started."""

from __future__ import annotations

from typing import NoReturn, Optional

import poptorch_host.options
from poptorch_host import popdist
from poptorch_host.option_groups import DistributedOptions


class _FixedDistributedOptions(DistributedOptions):
    def disable(self) -> NoReturn:
        """Raise: PopRun has decided."""
        _refuse("Distributed.disable")

    def setEnvVarNames(self, var_num_processes: str, var_process_id: str) -> NoReturn:  # noqa: ARG002
        """Raise: PopRun has decided."""
        _refuse("Distributed.setEnvVarNames")

    def configureProcessId(self, process_id: int, num_processes: int) -> NoReturn:  # noqa: ARG002
        """Raise: PopRun has decided."""
        _refuse("Distributed.configureProcessId")


class Options(poptorch_host.options.Options):
    """`poptorch.Options` with replicas and processes as PopRun set them.

    As everywhere on a host, `replication_factor` counts the replicas of all processes (the SDK's counts this
    process's). `ipus_per_replica` is kept and has no effect. RuntimeError from `replicationFactor`, `useIpuId` and
    the setters of `Distributed`.
    """

    def __init__(self, ipus_per_replica: Optional[int] = None) -> None:
        super().__init__()
        self._ipus_per_replica = ipus_per_replica or popdist.getNumIpusPerReplica()
        self.replication_factor = popdist.getNumTotalReplicas()
        self._distributed = _FixedDistributedOptions()

    def replicationFactor(self, replication_factor: int) -> NoReturn:  # noqa: ARG002
        """Raise: PopRun has decided."""
        _refuse("replicationFactor")

    def useIpuId(self, ipu_id: int) -> NoReturn:  # noqa: ARG002
        """Raise: PopRun has decided."""
        _refuse("useIpuId")


def _refuse(setter: str) -> NoReturn:
    raise RuntimeError(f"{setter} can't be used with popdist.poptorch.Options: PopRun sets it")
