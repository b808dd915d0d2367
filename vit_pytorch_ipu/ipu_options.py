"""The program of the ViT scripts, and PopTorch's options of training, from the scripts' options."""

from __future__ import annotations

from typing import Any, Dict, Union

from ipu import poptorch_options
from ipu.program import Program
from options import FinetuneOptions, ValidationOptions
from poptorch_host.backend import popart
from run.errors import UsageError


def create_program(options: Union[FinetuneOptions, ValidationOptions]) -> Program:
    """How the options' model is run, trained or validated.

    Raises:
        UsageError: ipus_per_replica and layers_per_ipu disagree, or shares of memory and IPUs; bytes for 16.32.
    """
    if options.byteio and options.precision == "16.32":  # it is float16 images that make float32 weights compute so
        raise UsageError("precision 16.32 needs float16 images: leave --byteio out or give another --precision")
    ipus = len(options.layers_per_ipu)
    if options.ipus_per_replica not in (None, ipus):
        raise UsageError(
            "ipus_per_replica is %s and layers_per_ipu names %d IPUs: make them agree"
            % (options.ipus_per_replica, ipus)
        )
    training: Dict[str, Any] = {}
    if isinstance(options, FinetuneOptions):
        training = {
            "gradient_accumulation": options.gradient_accumulation,
            "replicas": options.replication_factor,
            "seed": options.random_seed,
            "reduction": options.reduction_type,
            "automatic_loss_scaling": options.auto_loss_scaling,
            "rebatched_worker_size": options.rebatched_worker_size,
            "stochastic_rounding": options.stochastic_rounding,
            "shard_optimizer": options.enable_rts,
            "optimizer_offchip": options.optimizer_state_offchip,
            "synthetic_data": options.synthetic_data,
        }
    program = Program(
        micro_batch_size=options.micro_batch_size,
        device_iterations=options.device_iterations,
        precision=options.precision,
        workers=options.dataloader_workers,
        ipus=ipus,
        memory_proportion=tuple(options.matmul_proportion),
        half_partials=options.half_partials,
        cache_dir=options.executable_cache_dir,
        **training,
    )
    program.memory_proportions()
    return program


def training_options(options: FinetuneOptions) -> Any:
    """PopTorch options of training, with what the document's code sets for the compiler: speed and memory only."""
    made = poptorch_options.training_options(create_program(options))
    made._Popart.set("disableGradAccumulationTensorStreams", True)
    overlap = int(popart.AccumulateOuterFragmentSchedule.OverlapMemoryOptimized)
    made._Popart.set("accumulateOuterFragmentSettings.schedule", overlap)
    made._Popart.set("accumulateOuterFragmentSettings.excludedVirtualGraphs", ["0"])
    if options.prefetch_depth > 1:
        made._Popart.set("defaultPrefetchBufferingDepth", options.prefetch_depth)
    engine = {"opt.useAutoloader": "true", "target.syncReplicasIndependently": "true"}
    if options.profile_dir:
        engine.update({"debug.allowOutOfMemory": "true", "autoReport.directory": options.profile_dir})
        engine.update({"profiler.format": "v3", "autoReport.all": "true"})
    made._Popart.set("engineOptions", engine)
    made._Popart.set("subgraphCopyingStrategy", int(popart.SubgraphCopyingStrategy.JustInTime))
    made._Popart.set("scheduleNonWeightUpdateGradientConsumersEarly", True)
    return made
