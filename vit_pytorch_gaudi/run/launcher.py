"""Which of how many processes this one is, from the variables of torchrun, mpirun or poprun."""

from __future__ import annotations

import os
from typing import Mapping, NamedTuple, Optional

from .errors import UserError


class Place(NamedTuple):
    """This process among all processes of the run, and the launcher that says so ("" for none)."""

    rank: int
    world_size: int
    local_rank: int
    launcher: str


def place(environ: Optional[Mapping[str, str]] = None) -> Place:
    """Return this process's place: torchrun's variables first, then Open MPI's, then PopRun's; rank 0 of 1 without.

    PopRun counts replicas: an instance's rank is the offset of its first replica over its number of replicas.

    Raises:
        UserError: the variables contradict each other.
    """
    env = os.environ if environ is None else environ
    local = env.get("LOCAL_RANK", env.get("OMPI_COMM_WORLD_LOCAL_RANK", env.get("POPDIST_LOCAL_INSTANCE_INDEX", "0")))
    try:
        if "RANK" in env and "WORLD_SIZE" in env:
            found = Place(int(env["RANK"]), int(env["WORLD_SIZE"]), int(local), "torchrun")
        elif "OMPI_COMM_WORLD_SIZE" in env:
            rank, size = int(env["OMPI_COMM_WORLD_RANK"]), int(env["OMPI_COMM_WORLD_SIZE"])
            found = Place(rank, size, int(local), "mpirun")
        elif "POPDIST_NUM_TOTAL_REPLICAS" in env:
            here, total = int(env["POPDIST_NUM_LOCAL_REPLICAS"]), int(env["POPDIST_NUM_TOTAL_REPLICAS"])
            found = Place(int(env["POPDIST_REPLICA_INDEX_OFFSET"]) // here, total // here, int(local), "poprun")
        else:
            return Place(0, 1, 0, "")
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise UserError(
            "the launcher's variables can't be read (%s): start with torchrun, mpirun or poprun" % error
        ) from error
    if not 0 <= found.rank < found.world_size:
        raise UserError(
            "%s says rank %d of %d processes: unset variables left over from another launch"
            % (found.launcher, found.rank, found.world_size)
        )
    return found


def local_size() -> int:
    """Processes of this run on this host."""
    given = os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE"))
    return int(given) if given else place().world_size


def cores_are_own(processes: int) -> bool:
    """Whether the launcher has bound each of this host's `processes` to cores of its own, or there is one alone."""
    return processes == 1 or len(os.sched_getaffinity(0)) * processes <= (os.cpu_count() or 1)


def say(message: str) -> None:
    """Print on the first process only."""
    if place().rank == 0:
        print(message, flush=True)
