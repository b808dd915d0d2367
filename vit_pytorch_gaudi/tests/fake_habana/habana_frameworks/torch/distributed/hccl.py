import os

import torch.distributed as dist

from habana_frameworks.torch import record


def _create(store, rank, size, timeout):
    record("hccl starts")
    assert os.environ.get("HLS_MODULE_ID") == os.environ["LOCAL_RANK"], "the driver does not know the card yet"
    return dist.ProcessGroupGloo(store, rank, size, timeout)


dist.Backend.register_backend("hccl", _create, devices=["cpu"])


def initialize_distributed_hpu():
    record("initialize_distributed_hpu")
    size = int(os.environ.get("WORLD_SIZE", os.environ.get("OMPI_COMM_WORLD_SIZE", "1")))
    if size == 1:
        return 1, -1, -1
    rank = os.environ.setdefault("RANK", os.environ.get("OMPI_COMM_WORLD_RANK", "0"))
    local = os.environ.setdefault("LOCAL_RANK", os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK", "0"))
    os.environ.update(WORLD_SIZE=str(size), HLS_MODULE_ID=local, ID=rank)
    return size, int(rank), int(local)
