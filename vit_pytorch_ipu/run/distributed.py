"""The few things a training script asks of several processes: its place, sums of numbers, waiting.

A process alone needs nothing; under torchrun, mpirun or poprun the first question that takes an answer from all
starts torch.distributed unless the program has done so. Numbers travel over gloo, whatever moves the gradients.
"""

from __future__ import annotations

import gc
import os
import re
import time
import uuid
import zlib
from collections import deque
from contextlib import contextmanager
from typing import Any, Callable, Deque, Iterator, List, Optional, Sequence

import torch
import torch.distributed as dist

from .errors import UserError
from .launcher import place

_LOST = "another process of this run has ended or can't be reached: see its message"
_LOST_BY = re.compile(r"gloo|nccl|connection (closed|reset|refused)", re.IGNORECASE)
_numbers: Optional[Any] = None  # process group for numbers on the host
# Gloo's threads let go of a tensor a moment after its sum is there. Were theirs the last reference, they would wait for
# the interpreter, which in torch 2.0 waits for them in destroy_process_group: a deadlock, so tensors stay for a while.
_sums: Deque[torch.Tensor] = deque(maxlen=16)


def rank() -> int:
    """This process's number among all."""
    return dist.get_rank() if _running() else place().rank


def world_size() -> int:
    """Number of processes of the run.

    Raises:
        UserError: torch.distributed was started with another number than the launcher's, so that processes would
            train alone without a word.
    """
    here = place()
    if not _running():
        return here.world_size
    if here.launcher and here.world_size != dist.get_world_size():
        raise UserError(
            "%s started %d processes but torch.distributed has %d: start all of them with the same launcher"
            % (here.launcher, here.world_size, dist.get_world_size())
        )
    return dist.get_world_size()


def local_rank() -> int:
    """This process's number among those on its host."""
    return place().local_rank


def is_main() -> bool:
    """Whether this process writes the files and messages."""
    return rank() == 0


def all_reduce_sum(values: Sequence[float]) -> List[float]:
    """Sum each value over all processes, in float64: counts are exact up to 2^53."""
    if world_size() == 1:
        return [float(value) for value in values]
    total = torch.tensor(list(values), dtype=torch.float64)
    _sums.append(total)
    _exchange(dist.all_reduce, total)
    return [float(value) for value in total.tolist()]


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on any process; all get the same answer."""
    return all_reduce_sum([float(flag)])[0] > 0


def all_gather(value: Any) -> List[Any]:
    """Values of all processes by rank, such as the states of their random generators."""
    if world_size() == 1:
        return [value]
    values: List[Any] = [None] * world_size()
    _exchange(dist.all_gather_object, values, value)
    return values


def barrier() -> None:
    """Wait until all processes are here."""
    all_reduce_sum([0.0])


@contextmanager
def peers_needed() -> Iterator[None]:
    """Inside, a collective of whatever library that fails because another process has ended is a UserError."""
    try:
        yield
    except RuntimeError as error:
        if world_size() > 1 and _LOST_BY.search(str(error)):
            raise UserError(_LOST) from error
        raise


def shutdown(*, wait: bool = True) -> None:
    """Leave the process group, which a process should do before it ends; without one, do nothing.

    A gloo process that ends while objects which use the group are alive sometimes aborts: drop the model and its
    optimizer before this call.

    Args:
        wait: for the other processes first. False after an error, when they may never come.
    """
    global _numbers
    if not _running():
        return
    gc.collect()
    try:
        if wait:
            barrier()
    finally:
        _numbers = None
        dist.destroy_process_group()
        gc.collect()


def _running() -> bool:
    return dist.is_available() and dist.is_initialized()


def _exchange(collective: Callable[..., Any], *tensors: Any) -> None:
    group = _group()
    try:
        collective(*tensors, group=group)
    except RuntimeError as error:
        raise UserError(_LOST) from error


def _group() -> Any:
    global _numbers
    if not _running():
        _start()
    if _numbers is None:
        _numbers = dist.group.WORLD if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")
    return _numbers


def store() -> Optional[Any]:
    """Where the processes of one start find each other; None: where torch.distributed looks by itself.

    torchrun's own store outlives a restart with the addresses of the processes before, which nobody answers any more
    (https://github.com/pytorch/pytorch/issues/135712), so each start has names of its own in it. The number of restarts
    is no such name: every host's torchrun counts for itself, and not when it restarts for another host's sake.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    here = place()
    shared, _, _ = next(iter(dist.rendezvous("env://", here.rank, here.world_size)))
    return dist.PrefixStore(_name_of_start(shared, here.rank, here.world_size), shared)


def _name_of_start(shared: Any, rank: int, size: int) -> str:
    """The first process's choice, once all others have answered to it; what an earlier start left behind is none."""
    if rank == 0:
        name = uuid.uuid4().hex
        shared.set("start", name)
        for other in range(1, size):
            shared.wait(["%s %d" % (name, other)])
        shared.set("start", name + " complete")
        return name
    answered = ""
    while True:
        name, _, complete = shared.get("start").decode().partition(" ")
        if complete and name == answered:
            return name
        if not complete and name != answered:
            answered = name
            shared.set("%s %d" % (name, rank), "")
        time.sleep(0.05)


def _start() -> None:
    here = place()
    if "MASTER_ADDR" not in os.environ:
        if int(os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", here.world_size)) != here.world_size:
            raise UserError("the processes are on several hosts: export MASTER_ADDR, the name of the first one's host")
        os.environ["MASTER_ADDR"] = "127.0.0.1"
    # mpirun agrees on no port: its job's name gives all processes the same one.
    job = os.environ.get("PMIX_NAMESPACE") or str(os.getppid())
    os.environ.setdefault("MASTER_PORT", str(20000 + zlib.crc32(job.encode()) % 20000))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    dist.init_process_group(backend, store=store(), rank=here.rank, world_size=here.world_size)
