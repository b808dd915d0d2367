"""Several processes: the group behind a launcher, and gradients summed over it.

torch.distributed carries the data, gloo between CPUs and nccl between GPUs. The group is made when the first training
executor needs it, unless the program has made one, and taken down at exit.
"""

from __future__ import annotations

import atexit
import gc
import os
import threading
import time
import uuid
import zlib
from typing import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from poptorch_host.errors import Error, SettingError
from poptorch_host.launcher import World
from poptorch_host.logs import logger

_BUCKET_BYTES = 64 << 20
_PATIENCE = 20.0  # seconds


def device_for(world: World) -> torch.device:
    """Return where this process computes: POPTORCH_HOST_DEVICE, else CUDA where there is one; by the local id.

    Raises SettingError if the variable names no device, or a GPU that torch does not find.
    """
    chosen = os.environ.get("POPTORCH_HOST_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(chosen)
    except RuntimeError as error:
        raise SettingError(f"POPTORCH_HOST_DEVICE is {chosen!r}: use cpu, cuda or cuda:N") from error
    if device.type != "cuda":
        return device
    gpus = torch.cuda.device_count()
    if (device.index or 0) >= gpus:
        found = f"{gpus} GPU{'' if gpus == 1 else 's'}"
        raise SettingError(f"POPTORCH_HOST_DEVICE is {chosen!r} and torch finds {found}: check nvidia-smi, or use cpu")
    if device.index is None:
        index = world.local_id if world.num_processes > 1 else torch.cuda.current_device()
        return torch.device("cuda", index % gpus)  # a launcher may show each its own only
    return device


def join(world: World, device: torch.device) -> dist.ProcessGroup | None:
    """Return the group of all processes, None for a single one.

    Raises Error if the processes did not find each other: the size of the group differs from the launcher's number,
    or adding up one from each gives another number.
    """
    if world.num_processes == 1:
        return None
    if not dist.is_initialized():
        _initialise(world, device)
    group = dist.group.WORLD
    count = torch.ones(1, device=device)
    dist.all_reduce(count, group=group)
    found = (dist.get_world_size(group), int(count.item()))
    if found != (world.num_processes, world.num_processes):
        raise Error(
            f"The launcher started {world.num_processes} processes but the group has {found[0]}, of which {found[1]} "
            "answered. Start all of them with one launcher (torchrun, mpirun or poprun) of the MPI that is installed"
        )
    return group


def _initialise(world: World, device: torch.device) -> None:
    size = str(world.num_processes)
    if "MASTER_ADDR" not in os.environ and os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", size) != size:
        raise Error("The processes run on several machines: set MASTER_ADDR to the address of the first process's")
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", str(_port()))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    text = "process %d of %s still waits at %s for the others to make a training executor"
    message = threading.Timer(_PATIENCE, logger.warning, (text, world.process_id, size, place))
    message.daemon = True
    message.start()
    try:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=_store(world),
            rank=world.process_id,
            world_size=world.num_processes,
        )
    finally:
        message.cancel()
    atexit.register(_leave)


def _store(world: World) -> dist.Store | None:
    """Return the place where the processes of one start meet, None for torch's own choice.

    torchrun's store outlives its restarts, with addresses of processes that have ended
    (https://github.com/pytorch/pytorch/issues/135712), so each start gets names of its own in it. The number of
    restarts is no such name: every host's torchrun counts for itself, and not when it restarts for another's sake.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    store, _, _ = next(iter(dist.rendezvous("env://", world.process_id, world.num_processes)))
    return dist.PrefixStore(_name_of_start(store, world), store)


def _name_of_start(store: dist.Store, world: World) -> str:
    """Return the first process's choice, once all have answered to it; an earlier start's leavings are passed over."""
    if world.process_id == 0:
        name = uuid.uuid4().hex
        store.set("start", name)
        for other in range(1, world.num_processes):
            store.wait([f"{name} {other}"])
        store.set("start", f"{name} complete")
        return name
    answered = ""
    while True:
        name, _, complete = store.get("start").decode().partition(" ")
        if complete and name == answered:
            return name
        if not complete and name != answered:
            answered = name
            store.set(f"{name} {world.process_id}", "")
        time.sleep(0.05)


def _port() -> int:
    """Return a port that the processes of one job agree on and two jobs on a machine rarely share."""
    job = os.environ.get("PMIX_NAMESPACE", "poptorch_host")
    return 20000 + zlib.crc32(job.encode()) % 10000


def _leave() -> None:
    """Take the group down; collecting first keeps gloo's threads from outliving what they point to."""
    gc.collect()
    if dist.is_initialized():
        dist.destroy_process_group()
    gc.collect()


def add_up(tensors: Iterable[Tensor], group: dist.ProcessGroup | None) -> None:
    """Sum tensors in place over the processes, in flat buckets of one type each."""
    if group is None:
        return
    pending = []
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket]) if len(bucket) > 1 else bucket[0]
        pending.append((bucket, flat, dist.all_reduce(flat, group=group, async_op=True)))
    for bucket, flat, work in pending:
        work.wait()
        if len(bucket) > 1:
            pieces = flat.split([tensor.numel() for tensor in bucket])
            torch._foreach_copy_(bucket, [piece.view_as(tensor) for piece, tensor in zip(pieces, bucket)])


def _buckets(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    by_type: dict[torch.dtype, list[list[Tensor]]] = {}
    for tensor in tensors:
        buckets = by_type.setdefault(tensor.dtype, [[]])
        if sum(t.nbytes for t in buckets[-1]) + tensor.nbytes > _BUCKET_BYTES and buckets[-1]:
            buckets.append([])
        buckets[-1].append(tensor)
    return [bucket for buckets in by_type.values() for bucket in buckets]


def copy_from_first(tensors: Iterable[Tensor], group: dist.ProcessGroup | None) -> None:
    """Give every process the first one's values."""
    if group is not None:
        for tensor in tensors:
            dist.broadcast(tensor, src=0, group=group)
