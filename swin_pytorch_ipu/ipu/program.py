"""How a model is run on replicas of a pipeline, whatever the app's own flags are called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple

from run.errors import UsageError

INPUT_TYPES = {"16.16": "float16", "16.32": "float16", "32.32": "float32"}
PRECISIONS = tuple(INPUT_TYPES)


@dataclass(frozen=True)
class Program:
    """Batches, replicas, precision and pipeline of a training or an evaluation.

    What stands under IPU has no effect on a host's results.
    """

    micro_batch_size: int  # samples of one forward pass on one replica
    gradient_accumulation: int = 1  # micro-batches of one replica per update
    replicas: int = 1  # in all; several processes share them
    device_iterations: int = 1  # updates, or forward passes in inference, per call of the device
    precision: str = "32.32"  # bits of compute.weights: 16.16, 16.32 or 32.32
    seed: int = 42  # of the device's generators
    reduction: str = "mean"  # of gradients: mean or sum
    automatic_loss_scaling: bool = False
    running_mean: bool = False  # keep the mean of the gradients so far: float16 accumulators can't overflow
    workers: Optional[int] = None  # loading processes; None: the cores less one, shared by the processes
    asynchronous: bool = True  # batches are put together ahead, in a thread of their own
    rebatched_worker_size: Optional[int] = None  # samples that a loading process puts together at a time

    # IPU
    ipus: int = 1  # of one pipeline
    folded: bool = False  # the pipeline goes over the IPUs more than once
    memory_proportion: Tuple[float, ...] = ()  # memory for matmuls: one share for all, one per IPU, or the default
    half_partials: bool = False  # float16 partial sums
    stochastic_rounding: bool = False
    shard_optimizer: bool = False  # replicated tensor sharding of the optimizer's state
    optimizer_offchip: bool = False
    synthetic_data: bool = False
    cache_dir: str = ""  # of compiled executables; empty for none
    sharded: bool = False  # one IPU at a time instead of a pipeline, in inference

    @property
    def global_batch(self) -> int:
        """Samples of one update over all processes: micro-batch × accumulation × replicas."""
        return self.micro_batch_size * self.gradient_accumulation * self.replicas

    @property
    def samples_per_step(self) -> int:
        """Samples of one host step over all processes: device iterations × global batch."""
        return self.device_iterations * self.global_batch

    def memory_proportions(self) -> Dict[str, float]:
        """{"IPU0": share, …}, one share repeated for every IPU.

        Raises:
            UsageError: neither one share nor one for each IPU.
        """
        shares: List[float] = list(self.memory_proportion)
        if len(shares) == 1:
            shares *= self.ipus
        if len(shares) not in (0, self.ipus):
            raise UsageError(
                "the memory proportion has %d values: give 1, or %d, one per IPU" % (len(shares), self.ipus)
            )
        return {"IPU%d" % index: share for index, share in enumerate(shares)}
