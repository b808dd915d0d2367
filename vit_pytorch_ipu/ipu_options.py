"""PopTorch options of training and inference, from the scripts' options."""

from __future__ import annotations

from typing import Any, Dict

import torch

from options import FinetuneOptions, IpuOptions
from poptorch_host.backend import popart, popdist, poptorch
from run.errors import UsageError

LOSS_SCALE = "loss_scale"  # anchored, where it is found automatically


def _new_options(replicas: int) -> Any:
    """Options with `replicas` in all; under poprun its own number of replicas stands."""
    if popdist.isPopdistEnvSet():
        return popdist.poptorch.Options()
    options = poptorch.Options()
    options.replicationFactor(replicas)
    return options


def replicas_of_inference() -> int:
    """Replicas of one process in inference: one, or under poprun as many as it says."""
    return int(popdist.getNumLocalReplicas()) if popdist.isPopdistEnvSet() else 1


def memory_proportions(options: IpuOptions) -> Dict[str, float]:
    """{"IPU0": share, …}, one share repeated for every IPU.

    Raises:
        UsageError: neither one share nor one for each IPU, or ipus_per_replica says otherwise.
    """
    ipus, shares = len(options.layers_per_ipu), list(options.matmul_proportion)
    if options.ipus_per_replica not in (None, ipus):
        raise UsageError(
            "ipus_per_replica is %s and layers_per_ipu names %d IPUs: make them agree"
            % (options.ipus_per_replica, ipus)
        )
    if len(shares) == 1:
        shares *= ipus
    if len(shares) != ipus:
        raise UsageError("matmul_proportion has %d values: give 1, or %d, one per IPU" % (len(shares), ipus))
    return {"IPU%d" % index: share for index, share in enumerate(shares)}


def _common(options: Any, given: IpuOptions) -> Any:
    options.autoRoundNumIPUs(True)
    options.setExecutionStrategy(poptorch.PipelinedExecution(poptorch.AutoStage.SameAsIpu))
    options.setAvailableMemoryProportion(memory_proportions(given))
    options.outputMode(poptorch.OutputMode.All)
    if "$" in given.executable_cache_dir:
        raise UsageError("executable_cache_dir is %s: export this variable first" % given.executable_cache_dir)
    if given.executable_cache_dir:
        options.enableExecutableCaching(given.executable_cache_dir)
    if given.half_partials:
        options.Precision.setPartialsType(torch.half)
    return options


def training_options(given: FinetuneOptions) -> Any:
    """PopTorch options of training. A non-finite loss or gradient stops the program before the weights change."""
    if popdist.isPopdistEnvSet() and popdist.getNumTotalReplicas() != given.replication_factor:
        raise UsageError(
            "poprun runs %d replicas and replication_factor is %d: make them agree"
            % (popdist.getNumTotalReplicas(), given.replication_factor)
        )
    options = _common(_new_options(given.replication_factor), given)
    options.deviceIterations(given.device_iterations)
    options.randomSeed(given.random_seed)
    options.Training.gradientAccumulation(given.gradient_accumulation)
    reductions = {"mean": poptorch.ReductionType.Mean, "sum": poptorch.ReductionType.Sum}
    options.Training.accumulationAndReplicationReductionType(reductions[given.reduction_type])
    options.Training.setAutomaticLossScaling(given.auto_loss_scaling)
    if given.auto_loss_scaling:
        options.anchorTensor(LOSS_SCALE, "finalLossScale", poptorch.OutputMode.Final)
    options.Precision.enableStochasticRounding(given.stochastic_rounding)
    options.Precision.enableFloatingPointExceptions(True)
    location = poptorch.TensorLocationSettings().useOnChipStorage(not given.optimizer_state_offchip)
    options.TensorLocations.setOptimizerLocation(location.useReplicatedTensorSharding(given.enable_rts))
    if given.synthetic_data:
        options.enableSyntheticData(int(popart.SyntheticDataMode.RandomNormal))
    _tune(options, given)
    return options


def _tune(options: Any, given: FinetuneOptions) -> None:
    """Settings of the IPU's compiler that change speed and memory, not results (reference: the document's code)."""
    options._Popart.set("disableGradAccumulationTensorStreams", True)
    overlap = int(popart.AccumulateOuterFragmentSchedule.OverlapMemoryOptimized)
    options._Popart.set("accumulateOuterFragmentSettings.schedule", overlap)
    options._Popart.set("accumulateOuterFragmentSettings.excludedVirtualGraphs", ["0"])
    if given.prefetch_depth > 1:
        options._Popart.set("defaultPrefetchBufferingDepth", given.prefetch_depth)
    engine = {"opt.useAutoloader": "true", "target.syncReplicasIndependently": "true"}
    if given.profile_dir:
        engine.update({"debug.allowOutOfMemory": "true", "autoReport.directory": given.profile_dir})
        engine.update({"profiler.format": "v3", "autoReport.all": "true"})
    options._Popart.set("engineOptions", engine)
    options._Popart.set("subgraphCopyingStrategy", int(popart.SubgraphCopyingStrategy.JustInTime))
    options._Popart.set("scheduleNonWeightUpdateGradientConsumersEarly", True)


def inference_options(given: IpuOptions, *, device_iterations: int, processes: int) -> Any:
    """PopTorch options of inference: one replica for each process, no stochastic rounding.

    A pipeline of n IPUs needs n device iterations or more; fewer are raised to n.
    """
    options = _common(_new_options(processes), given)
    options.deviceIterations(max(device_iterations, len(given.layers_per_ipu)))
    options.Precision.enableStochasticRounding(False)
    return options
