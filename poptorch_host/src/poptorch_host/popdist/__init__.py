"""popdist for hosts: reads what PopRun exports to the processes it starts.

`popdist.poptorch.Options` is in the submodule `poptorch`, which is imported when it is used, as it needs torch.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from poptorch_host.popdist import poptorch as poptorch


def __getattr__(name: str) -> Any:
    if name == "poptorch":
        return importlib.import_module("poptorch_host.popdist.poptorch")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def init() -> None:
    """Do what the SDK's init does for collectives: nothing, the engine joins the processes when it needs to."""


def isPopdistEnvSet() -> bool:
    """Say whether PopRun started this process."""
    return "POPDIST_NUM_TOTAL_REPLICAS" in os.environ


def getNumTotalReplicas() -> int:
    """Return the number of replicas of all processes; 1 without PopRun, as are the other numbers."""
    return _number("POPDIST_NUM_TOTAL_REPLICAS", 1)


def getNumLocalReplicas() -> int:
    """Return the number of replicas of this process."""
    return _number("POPDIST_NUM_LOCAL_REPLICAS", 1)


def getNumIpusPerReplica() -> int:
    """Return the number of IPUs that one replica uses."""
    return _number("POPDIST_NUM_IPUS_PER_REPLICA", 1)


def getReplicaIndexOffset() -> int:
    """Return the index of this process's first replica."""
    return _number("POPDIST_REPLICA_INDEX_OFFSET", 0)


def getNumInstances() -> int:
    """Return the number of processes."""
    return getNumTotalReplicas() // getNumLocalReplicas()


def getInstanceIndex() -> int:
    """Return which of the processes this one is."""
    return getReplicaIndexOffset() // getNumLocalReplicas()


def getNumLocalInstances() -> int:
    """Return the number of processes on this machine, where OpenMPI tells."""
    return _number("OMPI_COMM_WORLD_LOCAL_SIZE", 1)


def getLocalInstanceIndex() -> int:
    """Return which of the processes on this machine this one is."""
    return _number("POPDIST_LOCAL_INSTANCE_INDEX", 0)


def _number(variable: str, default: int) -> int:
    return int(os.environ.get(variable, default))
