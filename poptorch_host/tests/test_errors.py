"""Errors that belong to options, annotations and the data loader, by situation."""

import pickle
import re

import pytest
import torch
from torch import nn

from poptorch_host import enums
from poptorch_host.annotations import BeginBlock, recomputationCheckpoint
from poptorch_host.custom_ops import custom_op
from poptorch_host.dataloader import DataLoader
from poptorch_host.errors import Error, RecoverableError, UnrecoverableError
from poptorch_host.execution import Phase, PipelinedExecution, SerialPhasedExecution, Stage
from poptorch_host.logs import setLogLevel
from poptorch_host.misc import ipuHardwareIsAvailable, ipuHardwareVersion
from poptorch_host.options import Options, TensorLocationSettings

ROWS = torch.utils.data.TensorDataset(torch.arange(8))
BLOCK = BeginBlock(nn.Linear(1, 1), ipu_id=0)


def configured(process_id=0):
    options = Options()
    options.Distributed.configureProcessId(process_id, 2)
    return options


# situation, exception, part of the message
SITUATIONS = {
    "int option": (lambda: Options().deviceIterations("2"), AssertionError, "device_iterations"),
    "float for an int": (lambda: Options().replicationFactor(2.0), AssertionError, "replication_factor"),
    "bool option": (lambda: Options().autoRoundNumIPUs(1), AssertionError, "auto_round_num_ipus"),
    "group option": (lambda: Options().Training.gradientAccumulation("4"), AssertionError, "gradient_acc"),
    "unknown option read": (lambda: Options().device_iteration, AttributeError, "device_iteration"),
    "unset option read": (lambda: Options().random_seed, AttributeError, "random_seed"),
    "unknown option set": (lambda: setattr(Options(), "iterations", 1), AssertionError, "iterations"),
    "unknown group option": (lambda: setattr(Options().Training, "ga", 1), AssertionError, "ga"),
    "memory key": (lambda: Options().setAvailableMemoryProportion({"0": 1.0}), AssertionError, "IPU0"),
    "output mode": (lambda: Options().outputMode(2), AssertionError, "OutputMode"),
    "EveryN without period": (
        lambda: Options().outputMode(enums.OutputMode.EveryN),
        AssertionError,
        "output_return_period",
    ),
    "EveryN with period 0": (
        lambda: Options().outputMode(enums.OutputMode.EveryN, 0),
        AssertionError,
        "output_return_period",
    ),
    "NoReduction": (
        lambda: Options().Training.accumulationAndReplicationReductionType(enums.ReductionType.NoReduction),
        ValueError,
        "ReductionType",
    ),
    "reduction as int": (
        lambda: Options().Training.accumulationAndReplicationReductionType(1),
        ValueError,
        "ReductionType",
    ),
    "reduction strategy": (
        lambda: Options().Training.setMeanAccumulationAndReplicationReductionStrategy(0),
        AssertionError,
        "MeanReductionStrategy",
    ),
    "partials type": (lambda: Options().Precision.setPartialsType(torch.bfloat16), ValueError, "bfloat16"),
    "replica groups": (
        lambda: Options().inputReplicaGrouping(2, enums.CommGroupType.Consecutive),
        Error,
        "input_group_size of 1",
    ),
    "strategy": (lambda: Options().setExecutionStrategy("pipelined"), AssertionError, "pipelined"),
    "connection type": (lambda: Options().connectionType(1), AssertionError, "ConnectionType"),
    "on-chip storage": (lambda: TensorLocationSettings().useOnChipStorage(1), AssertionError, "onChip"),
    "sharding": (
        lambda: TensorLocationSettings().useReplicatedTensorSharding("yes"),
        AssertionError,
        "useReplicatedTensorSharding",
    ),
    "location": (lambda: Options().TensorLocations.setOptimizerLocation({}), AssertionError, "Settings"),
    "I/O tiles": (lambda: Options().TensorLocations.numIOTiles(33), AssertionError, "between 32 and 192"),
    "patterns": (lambda: Options()._Popart.setPatterns(["PadSum"]), AssertionError, "dict"),
    "second BeginBlock": (lambda: BeginBlock(BLOCK, ipu_id=1), Error, "already"),
    "BeginBlock on a number": (lambda: BeginBlock(3), Error, "int"),
    "checkpoint of a number": (lambda: recomputationCheckpoint(torch.ones(1), 2.0), ValueError, "float"),
    "block in two stages": (lambda: PipelinedExecution("a", Stage("a")), AssertionError, "more than one"),
    "phases missing": (lambda: SerialPhasedExecution(), AssertionError, "phases"),
    "phase of both kinds": (lambda: Phase("a", Stage("b")), AssertionError, "either"),
    "stage of an int": (lambda: Stage(1), AssertionError, "strings"),
    "log level name": (lambda: setLogLevel("warn"), ValueError, "warn"),
    "log level number": (lambda: setLogLevel(5), ValueError, "5"),
    "hardware version": (lambda: ipuHardwareVersion(), AssertionError, "IPU"),
    "unknown custom op": (lambda: custom_op([], "Mine", "own", 1, []), Error, "register_custom_op"),
    "loader without Options": (lambda: DataLoader({}, ROWS), AssertionError, "poptorch.Options"),
    "unknown async option": (
        lambda: DataLoader(Options(), ROWS, mode=enums.DataLoaderMode.Async, async_options={"buffers": 2}),
        TypeError,
        "buffers",
    ),
    "rebatched worker size": (
        lambda: DataLoader(Options(), ROWS, 2, mode=enums.DataLoaderMode.AsyncRebatched, rebatched_worker_size=3),
        AssertionError,
        "rebatched_worker_size (3)",
    ),
    "rebatching single rows": (
        lambda: DataLoader(Options(), ROWS, mode=enums.DataLoaderMode.AsyncRebatched),
        AssertionError,
        "above 1",
    ),
    "rebatched size given": (
        lambda: DataLoader(Options(), ROWS, mode=enums.DataLoaderMode.Async, async_options={"rebatched_size": 2}),
        AssertionError,
        "rebatched_size",
    ),
    "shuffled shares without seed": (
        lambda: DataLoader(configured(), ROWS, shuffle=True),
        AssertionError,
        "randomSeed",
    ),
    "shares without batch size": (
        lambda: DataLoader(configured(), ROWS, batch_size=None),
        AssertionError,
        "batch_size=None",
    ),
    "no whole batch": (
        lambda: DataLoader(Options(), ROWS, 9, mode=enums.DataLoaderMode.Async),
        Error,
        "8 rows make no combined batch of 9",
    ),
    "persistent without workers": (
        lambda: DataLoader(Options(), ROWS, persistent_workers=True),
        ValueError,
        "persistent_workers",
    ),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_situation_raises(situation):
    call, exception, message = SITUATIONS[situation]
    with pytest.raises(exception, match=re.escape(message)) as info:
        call()
    assert info.type is exception


def test_bool_passes_for_int():
    assert Options().deviceIterations(True).device_iterations == 1


def test_no_hardware():
    assert ipuHardwareIsAvailable() is False
    assert ipuHardwareIsAvailable(4) is False


def test_error_carries_type_message_location():
    error = Error("too few stages", type="poptorch_py_error", location="compile")
    assert (error.type, error.message, error.location, str(error)) == (
        "poptorch_py_error",
        "too few stages",
        "compile",
        "too few stages",
    )
    assert isinstance(error, Exception)
    assert not isinstance(error, RuntimeError)


@pytest.mark.parametrize(
    "error", [Error("m", "t", "l"), UnrecoverableError("m", "t", "l"), RecoverableError("m", "t", "l", "RESET")]
)
def test_errors_survive_pickling_between_processes(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert isinstance(again, Error)
    assert vars(again) == vars(error)


def test_log_levels(capsys):
    from poptorch_host.logs import logger

    level = logger.level
    try:
        for name, number in [("TRACE", 0), ("DEBUG", 1), ("INFO", 2), ("WARN", 3), ("ERR", 4), ("OFF", 6)]:
            setLogLevel(name)
            by_name = logger.level
            setLogLevel(number)
            assert logger.level == by_name
        setLogLevel("ERR")
        logger.warning("hidden")
        logger.error("shown")
        setLogLevel("OFF")
        logger.critical("hidden")
    finally:
        logger.setLevel(level)
    assert capsys.readouterr().err == "[poptorch] ERROR: shown\n"
