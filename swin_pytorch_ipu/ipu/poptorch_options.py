"""PopTorch options of training and inference."""

from __future__ import annotations

from typing import Any

import torch

from ipu import host
from ipu.program import Program
from poptorch_host.backend import is_host, popart, popdist, poptorch
from run.errors import UsageError

LOSS_SCALE = "loss_scale"  # anchored, where it is found automatically


def _new_options(replicas: int) -> Any:
    """Options with `replicas` in all; under poprun its own number of replicas stands."""
    if is_host:
        host.check()
    if popdist.isPopdistEnvSet():
        return popdist.poptorch.Options()
    options = poptorch.Options()
    options.replicationFactor(replicas)
    return options


def replicas_of_inference() -> int:
    """Replicas of one process in inference: one, or under poprun as many as it says."""
    return int(popdist.getNumLocalReplicas()) if popdist.isPopdistEnvSet() else 1


def _common(options: Any, program: Program) -> Any:
    options.autoRoundNumIPUs(True)
    pipeline = poptorch.ShardedExecution if program.sharded else poptorch.PipelinedExecution
    stages = poptorch.AutoStage.AutoIncrement if program.folded else poptorch.AutoStage.SameAsIpu
    options.setExecutionStrategy(pipeline(stages))
    if program.memory_proportion:
        options.setAvailableMemoryProportion(program.memory_proportions())
    options.outputMode(poptorch.OutputMode.All)
    if "$" in program.cache_dir:
        raise UsageError("the folder of executables is %s: export this variable first" % program.cache_dir)
    if program.cache_dir:
        options.enableExecutableCaching(program.cache_dir)
    if program.half_partials:
        options.Precision.setPartialsType(torch.half)
    return options


def training_options(program: Program) -> Any:
    """PopTorch options of training. A non-finite loss or gradient stops the program before the weights change."""
    if popdist.isPopdistEnvSet() and popdist.getNumTotalReplicas() != program.replicas:
        raise UsageError(
            "poprun runs %d replicas and the options say %d: make them agree"
            % (popdist.getNumTotalReplicas(), program.replicas)
        )
    options = _common(_new_options(program.replicas), program)
    options.deviceIterations(program.device_iterations)
    options.randomSeed(program.seed)
    options.Training.gradientAccumulation(program.gradient_accumulation)
    reductions = {"mean": poptorch.ReductionType.Mean, "sum": poptorch.ReductionType.Sum}
    options.Training.accumulationAndReplicationReductionType(reductions[program.reduction])
    if program.running_mean:
        options.Training.setMeanAccumulationAndReplicationReductionStrategy(poptorch.MeanReductionStrategy.Running)
    options.Training.setAutomaticLossScaling(program.automatic_loss_scaling)
    if program.automatic_loss_scaling:
        options.anchorTensor(LOSS_SCALE, "finalLossScale", poptorch.OutputMode.Final)
    options.Precision.enableStochasticRounding(program.stochastic_rounding)
    options.Precision.enableFloatingPointExceptions(True)
    location = poptorch.TensorLocationSettings().useOnChipStorage(not program.optimizer_offchip)
    options.TensorLocations.setOptimizerLocation(location.useReplicatedTensorSharding(program.shard_optimizer))
    if program.synthetic_data:
        options.enableSyntheticData(int(popart.SyntheticDataMode.RandomNormal))
    return options


def inference_options(program: Program, *, device_iterations: int, processes: int) -> Any:
    """PopTorch options of inference: one replica for each process, no stochastic rounding.

    A pipeline of n IPUs needs n device iterations or more; fewer are raised to n.
    """
    options = _common(_new_options(processes), program)
    options.deviceIterations(max(device_iterations, program.ipus))
    options.Precision.enableStochasticRounding(False)
    return options
