"""Options: every setter of the applications with its default, what it accepts and where it is read back."""

import copy
import pickle

import pytest
import torch

from poptorch_host import enums
from poptorch_host.execution import PipelinedExecution, ShardedExecution
from poptorch_host.options import Options, TensorLocationSettings

UNSET = object()

# setter, arguments, where it is read back, default, value after the call
SETTERS = [
    ("autoRoundNumIPUs", (True,), "auto_round_num_ipus", False, True),
    ("autoRoundNumIPUs", (), "auto_round_num_ipus", False, True),
    ("deviceIterations", (5,), "device_iterations", 1, 5),
    ("replicationFactor", (4,), "replication_factor", 1, 4),
    ("outputMode", (enums.OutputMode.All,), "output_mode", 4, 2),
    ("outputMode", (enums.OutputMode.EveryN, 3), "output_return_period", 1, 3),
    ("randomSeed", (7,), "random_seed", UNSET, 7),
    (
        "setAvailableMemoryProportion",
        ({"IPU0": 0.5, "IPU12": 0.1},),
        "available_memory_proportion",
        {},
        {0: 0.5, 12: 0.1},
    ),
    ("broadcastBuffers", (False,), "broadcast_buffers", True, False),
    ("connectionType", (enums.ConnectionType.Never,), "connection_type", 0, 2),
    ("syncPattern", (enums.SyncPattern.ReplicaAndLadder,), "sync_pattern", 0, 2),
    ("useIpuModel", (True,), "use_model", UNSET, True),
    ("useIpuId", (3,), "ipu_id", UNSET, 3),
    ("useOfflineIpuTarget", (), "ipu_version", UNSET, 2),
    ("logDir", ("logs",), "log_dir", ".", "logs"),
    ("modelName", ("vit",), "model_name", UNSET, "vit"),
    ("maxRepeatLogs", (9,), "max_repeat_logs", UNSET, 9),
    ("updatableNamedBuffers", (["bn"],), "updatable_named_buffers", [], ["bn"]),
    ("inputReplicaGrouping", (1, enums.CommGroupType.All), "input_group_size", 1, 1),
    ("Training.gradientAccumulation", (8,), "Training.gradient_accumulation", 1, 8),
    (
        "Training.accumulationAndReplicationReductionType",
        (enums.ReductionType.Sum,),
        "Training.accumulation_and_replication_reduction_type",
        enums.ReductionType.Mean,
        enums.ReductionType.Sum,
    ),
    (
        "Training.setMeanAccumulationAndReplicationReductionStrategy",
        (enums.MeanReductionStrategy.Running,),
        "Training.meanAccumulationAndReplicationReductionStrategy",
        enums.MeanReductionStrategy.Post,
        enums.MeanReductionStrategy.Running,
    ),
    (
        "Precision.halfFloatCasting",
        (enums.HalfFloatCastingBehavior.HalfUpcastToFloat,),
        "Precision.half_float_casting",
        enums.HalfFloatCastingBehavior.Default,
        enums.HalfFloatCastingBehavior.HalfUpcastToFloat,
    ),
    (
        "Precision.runningStatisticsAlwaysFloat",
        (True,),
        "Precision.running_statistics_always_float",
        False,
        True,
    ),
    (
        "TensorLocations.setOptimizerLocation",
        (TensorLocationSettings().useOnChipStorage(False).useReplicatedTensorSharding(),),
        "TensorLocations.location_optimizer",
        UNSET,
        {"onChip": 0, "useReplicatedTensorSharding": 1},
    ),
    (
        "TensorLocations.setWeightLocation",
        (TensorLocationSettings().useIOTilesToLoad().minElementsForOffChip(4),),
        "TensorLocations.location_weight",
        UNSET,
        {"useIOTilesToLoad": 1, "minElementsForOffChip": 4},
    ),
    ("TensorLocations.numIOTiles", (64,), "TensorLocations.num_io_tiles", UNSET, 64),
    ("Distributed.configureProcessId", (1, 2), "Distributed.processId", 0, 1),
    ("Distributed.configureProcessId", (1, 2), "Distributed.numProcesses", 1, 2),
    ("Jit.traceModel", (True,), "Jit.trace_model", False, True),
]


def reach(options, path):
    for part in path.split("."):
        options = getattr(options, part)
    return options


def owner(options, path):
    return reach(options, path.rpartition(".")[0]) if "." in path else options


@pytest.mark.parametrize(("setter", "arguments", "attribute", "default", "value"), SETTERS)
def test_setter_returns_its_object_and_is_read_back(setter, arguments, attribute, default, value):
    options = Options()
    if default is UNSET:
        with pytest.raises(AttributeError):
            reach(options, attribute)
    else:
        assert reach(options, attribute) == default
    assert reach(options, setter)(*arguments) is owner(options, setter)
    assert reach(options, attribute) == value


# setter, arguments, key of the compiler's options, value
POPART_SETTERS = [
    ("enableSyntheticData", (2,), "syntheticDataMode", 2),
    ("enableSyntheticData", (0,), "syntheticDataMode", 0),
    ("enableExecutableCaching", ("cache",), "cachePath", "cache"),
    ("enableExecutableCaching", (None,), "enableEngineCaching", False),
    ("enableStableNorm", (True,), "enableStableNorm", True),
    ("logCycleCount", (True,), "instrumentWithHardwareCycleCounter", True),
    ("Training.setAutomaticLossScaling", (True,), "automaticLossScalingSettings.enabled", True),
    ("Training.setConvolutionDithering", (True,), "convolutionOptions", {"enableConvDithering": True}),
    ("Precision.enableStochasticRounding", (True,), "enableStochasticRounding", True),
    ("Precision.enableFloatingPointExceptions", (True,), "enableFloatingPointChecks", True),
    ("Precision.setPartialsType", (torch.half,), "partialsTypeMatMuls", "half"),
    ("_Popart.set", ("automaticLossScalingSettings.updatePeriod", 3), "automaticLossScalingSettings.updatePeriod", 3),
    ("_Popart.setPatterns", ({"PadSum": True}, 0), "patterns", {"PadSum": True}),
    ("_Popart.setPatterns", ({"PadSum": True},), "patterns_level", 2),
    ("_Popart.setEngineOptions", ({"a": "b"},), "engineOptions", {"a": "b"}),
]


@pytest.mark.parametrize(("setter", "arguments", "key", "value"), POPART_SETTERS)
def test_setter_keeps_a_compiler_option(setter, arguments, key, value):
    options = Options()
    assert reach(options, setter)(*arguments) is owner(options, setter)
    assert options._Popart.options[key] == value


def test_profiling_adds_to_engine_options():
    options = Options()
    options._Popart.setEngineOptions({"a": "b"})
    options.enableProfiling("profile")
    expected = {"a": "b", "autoReport.directory": "profile", "autoReport.all": "true"}
    assert options._Popart.options["engineOptions"] == expected


def test_random_seed_seeds_torch():
    Options().randomSeed(11)
    drawn = torch.rand(3)
    assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(11)))


def test_default_output_mode():
    assert Options().defaultOutputMode()
    assert not Options().outputMode(enums.OutputMode.Final).defaultOutputMode()


def test_anchor_tensor():
    options = Options()
    assert options.anchorTensor("a", "weight") is None
    options.anchorTensor("b", "bias", enums.OutputMode.EveryN, 2)
    options.anchorTensor("c", "bias", enums.OutputMode.All, 2)
    assert options.anchored_tensors == {
        "a": ["weight", True, None, 1],
        "b": ["bias", False, enums.OutputMode.EveryN, 2],
        "c": ["bias", False, enums.OutputMode.All, 1],
    }


def test_on_chip_storage_can_be_left_open():
    settings = TensorLocationSettings().useOnChipStorage(True).useOnChipStorage(None)
    assert settings.toDict() == {}


def test_execution_strategy():
    options = Options()
    assert type(options._execution_strategy) is PipelinedExecution
    strategy = ShardedExecution()
    assert options.setExecutionStrategy(strategy)._execution_strategy is strategy
    assert isinstance(strategy, PipelinedExecution)


FROZEN_CHANGES = [
    lambda o: o.deviceIterations(2),
    lambda o: o.set(random_seed=1),
    lambda o: o.setExecutionStrategy(ShardedExecution()),
    lambda o: o.showCompilationProgressBar(),
    lambda o: o.relaxOptimizerAttributesChecks(),
    lambda o: o.Training.gradientAccumulation(2),
    lambda o: o.Training.setAutomaticLossScaling(True),
    lambda o: o.Precision.setPartialsType(torch.float),
    lambda o: o.Distributed.configureProcessId(0, 2),
    lambda o: o.TensorLocations.setWeightLocation(TensorLocationSettings()),
    lambda o: o.Jit.traceModel(True),
    lambda o: o._Popart.set("a", 1),
    lambda o: setattr(o, "device_iterations", 2),
]


@pytest.mark.parametrize("change", FROZEN_CHANGES)
def test_frozen_options_refuse_changes_and_copies_do_not(change):
    options = Options()
    options._freeze()
    before = repr(options) + repr(options._Popart.options)
    with pytest.raises(AttributeError, match="Can't modify frozen Options"):
        change(options)
    assert repr(options) + repr(options._Popart.options) == before
    change(options.clone())
    change(copy.deepcopy(options))
    with pytest.raises(AttributeError, match="Can't modify frozen Options"):
        change(pickle.loads(pickle.dumps(options)))


def test_anchor_tensor_gets_through_to_frozen_options():
    options = Options()
    options._freeze()
    options.anchorTensor("a", "weight")
    assert "a" in options.anchored_tensors


def test_copies_are_independent():
    options = Options().deviceIterations(5)
    options._Popart.set("autoRecomputation", 3)
    duplicate = options.clone()
    options.deviceIterations(4).anchorTensor("a", "weight")
    options.Training.gradientAccumulation(2).setAutomaticLossScaling(True)
    assert (duplicate.device_iterations, duplicate.anchored_tensors) == (5, {})
    assert duplicate.Training.gradient_accumulation == 1
    assert "automaticLossScalingSettings.enabled" not in duplicate._Popart.options
    duplicate.Training.setAutomaticLossScaling(False)  # the groups of a copy share the copy's compiler options
    assert duplicate._Popart.options["automaticLossScalingSettings.enabled"] is False


def test_repr_tells_the_values():
    text = repr(Options().replicationFactor(4))
    assert text.startswith("Options(")
    assert "replication_factor=4" in text
