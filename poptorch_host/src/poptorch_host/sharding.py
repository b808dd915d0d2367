"""Optimizer state dealt out to the processes, as replicated tensor sharding does."""

from __future__ import annotations

from typing import List, Mapping, Optional, Sequence

import torch
import torch.distributed as dist
from torch import Tensor


def partition(sizes: Mapping[str, int], parts: int) -> List[List[str]]:
    """Deal names out so that the sums of their sizes are about equal: largest first, each to the smallest part."""
    shares: List[List[str]] = [[] for _ in range(parts)]
    totals = [0] * parts
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        smallest = totals.index(min(totals))
        shares[smallest].append(name)
        totals[smallest] += sizes[name]
    return shares


class Shards:
    """Which rank of `group` (None: all processes) owns which parameter, and the transfers that follow from it.

    All ranks must call the methods in the same order.
    """

    def __init__(self, sizes: Mapping[str, int], group: Optional[dist.ProcessGroup]) -> None:
        self.group = dist.group.WORLD if group is None else group
        self.rank = dist.get_rank(self.group)
        self.shares = partition(sizes, dist.get_world_size(self.group))

    @property
    def own(self) -> List[str]:
        """The names of this rank's parameters."""
        return self.shares[self.rank]

    def share(self, tensors: Mapping[str, Sequence[Tensor]]) -> None:
        """Overwrite the tensors under each parameter's name by its owner's; each owner sends one piece."""
        for owner, names in enumerate(self.shares):
            pieces = [tensor for name in names for tensor in tensors.get(name, ())]
            if pieces:
                self._broadcast(pieces, owner)

    def _broadcast(self, tensors: List[Tensor], owner: int) -> None:
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])  # in float32 if types differ: exact
        assert self.group is not None
        dist.broadcast(flat, dist.get_global_rank(self.group, owner), group=self.group)
        if owner == self.rank:
            return
        for tensor, values in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
            tensor.copy_(values.view(tensor.shape))

    def sum(self, values: Tensor) -> None:
        """Add `values` up over the ranks, in place."""
        dist.all_reduce(values, group=self.group)
