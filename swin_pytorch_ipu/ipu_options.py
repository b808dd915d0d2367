"""The program of the Swin scripts, and PopTorch's options of training, from the scripts' options."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict

from ipu import poptorch_options
from ipu.program import Program
from option_groups import PRECISIONS
from options import Options, TrainOptions
from poptorch_host.backend import popart


def create_program(options: Options) -> Program:
    """How the options' model is run, trained or validated; UsageError if shares of memory and IPUs disagree."""
    half = options.precision == "16.16"
    training: Dict[str, Any] = {}
    if isinstance(options, TrainOptions):
        training = {
            "gradient_accumulation": options.gradient_accumulation_steps,
            "replicas": options.replicas,
            "seed": options.seed,
            "running_mean": half,
            "stochastic_rounding": half,
            "shard_optimizer": options.rts,
        }
    program = Program(
        micro_batch_size=options.batch_size,
        device_iterations=options.device_iterations,
        precision=PRECISIONS[options.precision],
        workers=options.num_workers,
        ipus=len(options.layers_per_ipu),
        memory_proportion=tuple(options.amp),
        half_partials=half,
        cache_dir=options.executable_cache_dir,
        **training,
    )
    program.memory_proportions()
    return program


def evaluation_program(options: TrainOptions) -> Program:
    """How a model in training is evaluated."""
    return replace(create_program(options), device_iterations=1)


def training_options(options: TrainOptions) -> Any:
    """PopTorch options of training, with what the document's code sets for the compiler: speed and memory only."""
    made = poptorch_options.training_options(create_program(options))
    overlap = int(popart.AccumulateOuterFragmentSchedule.OverlapMemoryOptimized)
    made._Popart.set("accumulateOuterFragmentSettings.schedule", overlap)
    made._Popart.set("subgraphCopyingStrategy", int(popart.SubgraphCopyingStrategy.JustInTime))
    made._Popart.set("defaultPrefetchBufferingDepth", 3)
    made._Popart.setPatterns({"TiedGather": True, "TiedGatherAccumulate": True})
    if options.rts:
        made._Popart.set("replicatedCollectivesSettings.prepareScheduleForMergingCollectives", True)
        made._Popart.set("replicatedCollectivesSettings.mergeAllReduceCollectives", True)
    return made
