"""The public names and signatures that the applications use, written out."""

import inspect

import pytest

import poptorch_host as poptorch

# name: parameters in order; "=value" where there is a default
OPTIONS = {
    "Options": "",
    "Options.autoRoundNumIPUs": "self, auto_round_num_ipus=True",
    "Options.deviceIterations": "self, device_iterations",
    "Options.replicationFactor": "self, replication_factor",
    "Options.outputMode": "self, output_mode, output_return_period=None",
    "Options.randomSeed": "self, random_seed",
    "Options.setExecutionStrategy": "self, strategy",
    "Options.setAvailableMemoryProportion": "self, available_memory_proportion",
    "Options.enableExecutableCaching": "self, path",
    "Options.enableSyntheticData": "self, enabled",
    "Options.anchorTensor": "self, short_name, long_name, output_mode=None, output_return_period=1",
    "Options.clone": "self",
    "TensorLocationSettings": "",
    "TensorLocationSettings.useOnChipStorage": "self, use=True",
    "TensorLocationSettings.useReplicatedTensorSharding": "self, use=True",
    "TensorLocationSettings.minElementsForReplicatedTensorSharding": "self, min_elements",
}
GROUPS = {
    "Training.gradientAccumulation": "gradient_accumulation",
    "Training.accumulationAndReplicationReductionType": "reduction_type",
    "Training.setMeanAccumulationAndReplicationReductionStrategy": "mean_reduction_strategy",
    "Training.setAutomaticLossScaling": "enabled",
    "Precision.enableStochasticRounding": "enabled",
    "Precision.enableFloatingPointExceptions": "enabled",
    "Precision.setPartialsType": "dtype",
    "TensorLocations.setOptimizerLocation": "location",
    "_Popart.set": "key, value",
    "_Popart.setPatterns": "patterns, level=2",
    "Distributed.configureProcessId": "process_id, num_processes",
    "Distributed.setEnvVarNames": "var_num_processes, var_process_id",
    "Distributed.disable": "",
}
FUNCTIONS = {
    "PipelinedExecution": "*args",
    "ShardedExecution": "*args",
    "DataLoader": "options, dataset, batch_size=1, shuffle=None, num_workers=0, drop_last=True, "
    "persistent_workers=None, auto_distributed_partitioning=True, mode=DataLoaderMode.Sync, async_options=None, "
    "rebatched_worker_size=None, batch_sampler=None, **kwargs",
    "AsynchronousDataAccessor": "dataset, buffer_size=3, miss_sleep_time_in_ms=0.1, load_indefinitely=True, "
    "early_preload=False, sharing_strategy=SharingStrategy.ForkServer, rebatched_size=None",
    "trainingModel": "model, options=None, optimizer=None",
    "inferenceModel": "model, options=None",
    "load": "filename, edit_opts_fn=None",
    "PoplarExecutor.__call__": "self, *args, **kwargs",
    "PoplarExecutor.compile": "self, *args, **kwargs",
    "PoplarExecutor.setOptimizer": "self, optimizer",
    "PoplarExecutor.load_state_dict": "self, state_dict, strict=True",
    "PoplarExecutor.getTensorNames": "self",
    "PoplarExecutor.getAnchoredTensor": "self, short_name",
    "BeginBlock": "layer_to_call, user_id=None, ipu_id=None",
    "Block": "user_id=None, ipu_id=None",
    "BlockFunction": "user_id=None, ipu_id=None",
    "removeBlocks": "module",
    "recomputationCheckpoint": "*tensors",
    "identity_loss": "x, reduction",
    "custom_op": "inputs, name, domain, domain_version, example_outputs, attributes=None",
    "set_available_memory": "tensor, available_memory_proportion",
    "serializedMatMul": "lhs, rhs, mode, factor=0, keep_precision=False",
    "for_loop": "count, body, inputs",
    "setLogLevel": "level",
    "ipuHardwareIsAvailable": "num_ipus=1",
    "ipuHardwareVersion": "",
    "isRunningOnIpu": "",
}
OPTIMIZERS = {
    "SGD": "params lr momentum dampening weight_decay nesterov maximize foreach differentiable loss_scaling "
    "velocity_scaling use_combined_accum accum_type velocity_accum_type max_grad_norm",
    "Adam": "params lr betas eps weight_decay amsgrad foreach maximize capturable differentiable fused loss_scaling "
    "accum_type first_order_momentum_accum_type second_order_momentum_accum_type max_grad_norm",
    "AdamW": "params lr betas eps weight_decay amsgrad maximize foreach capturable differentiable fused loss_scaling "
    "bias_correction accum_type first_order_momentum_accum_type second_order_momentum_accum_type max_grad_norm",
    "LAMB": "params lr betas eps weight_decay bias_correction loss_scaling max_weight_norm accum_type "
    "first_order_momentum_accum_type second_order_momentum_accum_type",
    "RMSprop": "params lr alpha eps weight_decay momentum centered foreach maximize differentiable loss_scaling "
    "accum_type first_order_momentum_accum_type second_order_momentum_accum_type use_tf_variant",
}
ENUMS = {
    "OutputMode": {"Final": 0, "EveryN": 1, "All": 2, "Sum": 3, "Default": 4},
    "ReductionType": {"Sum": 0, "Mean": 1, "NoReduction": 2},
    "MeanReductionStrategy": {"Running": 0, "Post": 1, "PostAndLoss": 2},
    "AutoStage": {"SameAsIpu": 0, "AutoIncrement": 1},
    "DataLoaderMode": {"Sync": 0, "Async": 1, "AsyncRebatched": 2},
    "SharingStrategy": {"SharedMemory": 0, "FileSystem": 1, "Fork": 2, "ForkServer": 3},
    "ConnectionType": {"Always": 0, "OnDemand": 1, "Never": 2},
    "SyncPattern": {"Full": 0, "SinglePipeline": 1, "ReplicaAndLadder": 2},
}


def reach(path, start=poptorch):
    for part in path.split("."):
        start = getattr(start, part)
    return start


def written(function):
    """Parameters as in the tables, without annotations; enumeration members by class and name."""
    parts = []
    for parameter in inspect.signature(function).parameters.values():
        star = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
        if hasattr(parameter.default, "name"):
            default = f"={type(parameter.default).__name__}.{parameter.default.name}"
        parts.append(star + parameter.name + default)
    return ", ".join(parts)


@pytest.mark.parametrize("name", [*OPTIONS, *FUNCTIONS])
def test_signature(name):
    assert written(reach(name)) == {**OPTIONS, **FUNCTIONS}[name]


@pytest.mark.parametrize("name", GROUPS)
def test_signature_in_a_group_of_options(name):
    assert written(reach(name, poptorch.Options())) == GROUPS[name]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_signature(name):
    signature = inspect.signature(getattr(poptorch.optim, name)).parameters
    assert list(signature) == OPTIMIZERS[name].split()
    assert all(p.default is None for p in list(signature.values())[2:])


@pytest.mark.parametrize("name", ENUMS)
def test_enumeration(name):
    assert {member.name: int(member) for member in getattr(poptorch, name)} == ENUMS[name]


def test_every_public_name_can_be_imported():
    assert len(poptorch.__all__) == len(set(poptorch.__all__))
    for name in poptorch.__all__:
        assert getattr(poptorch, name) is not None
    assert set(poptorch.__all__) <= set(dir(poptorch))
