"""Which of how many processes this one is, from the variables of mpirun and of TensorFlow; imports neither."""

from __future__ import annotations

import json
import os
from typing import Mapping, NamedTuple, Optional


class Place(NamedTuple):
    """This process among all of the run; `launcher` is what says so, "" for nothing."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    launcher: str


_MPI = (  # rank, size, local rank, local size
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)


def place(environ: Optional[Mapping[str, str]] = None) -> Place:
    """Open MPI's variables first, then those of MPICH's family, then TF_CONFIG; rank 0 of 1 without any of them."""
    env = os.environ if environ is None else environ
    for rank, size, local_rank, local_size in _MPI:
        if rank in env and size in env:
            local = int(env.get(local_rank, 0)), int(env.get(local_size, env[size]))
            return Place(int(env[rank]), int(env[size]), *local, "mpirun")
    if "TF_CONFIG" in env:
        try:
            config = json.loads(env["TF_CONFIG"])
            workers, rank_here = config["cluster"]["worker"], int(config["task"]["index"])
        except (ValueError, KeyError, TypeError):
            return Place(0, 1, 0, 1, "")
        hosts = [worker.rsplit(":", 1)[0] for worker in workers]
        local = hosts[:rank_here].count(hosts[rank_here]), hosts.count(hosts[rank_here])
        return Place(rank_here, len(workers), *local, "TF_CONFIG")
    return Place(0, 1, 0, 1, "")


def say(message: str) -> None:
    """Print on the first process only."""
    if place().rank == 0:
        print(message, flush=True)
