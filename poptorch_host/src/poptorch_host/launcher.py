"""Which of how many processes this one is: torchrun, mpirun and poprun, or torch.distributed once it runs."""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

from poptorch_host import popdist


class World(NamedTuple):
    """This process and the number of processes."""

    process_id: int
    num_processes: int
    local_id: int = 0


def world() -> World:
    """Return the place that a launcher gave to this process; (0, 1, 0) without a launcher.

    torch.distributed comes first where a program has initialised it, then torchrun's variables, OpenMPI's and
    PopRun's, which counts replicas instead of processes.
    """
    environ = os.environ
    local_id = int(environ.get("LOCAL_RANK", environ.get("OMPI_COMM_WORLD_LOCAL_RANK", 0)))
    dist = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size(), local_id)
    if "WORLD_SIZE" in environ and "RANK" in environ:
        return World(int(environ["RANK"]), int(environ["WORLD_SIZE"]), local_id)
    if "OMPI_COMM_WORLD_SIZE" in environ:
        return World(int(environ["OMPI_COMM_WORLD_RANK"]), int(environ["OMPI_COMM_WORLD_SIZE"]), local_id)
    if popdist.isPopdistEnvSet():
        return World(popdist.getInstanceIndex(), popdist.getNumInstances(), popdist.getLocalInstanceIndex())
    return World(0, 1, 0)
