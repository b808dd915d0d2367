"""Options that come from the environment, from files and from launchers."""

import json

import pytest

from poptorch_host.errors import Error
from poptorch_host.execution import ShardedExecution
from poptorch_host.launcher import world
from poptorch_host.options import ConfigFileError, Options

LAUNCHER_VARIABLES = [
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "OMPI_COMM_WORLD_SIZE",
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "POPDIST_NUM_TOTAL_REPLICAS",
    "POPDIST_NUM_LOCAL_REPLICAS",
    "POPDIST_REPLICA_INDEX_OFFSET",
    "POPTORCH_DEFAULT_OPTIONS",
    "POPTORCH_CACHE_DIR",
]


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch):
    for name in LAUNCHER_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_default_options_from_the_environment(monkeypatch):
    entries = {
        "deviceIterations": 2,
        "outputMode": "OutputMode.All",
        "logDir": "some.where",
        "Training.gradientAccumulation": 3,
        "_Popart.set": ["saveInitializersToFile", "file.onnx"],
    }
    monkeypatch.setenv("POPTORCH_DEFAULT_OPTIONS", json.dumps(entries))
    monkeypatch.setenv("POPTORCH_CACHE_DIR", "cache")
    options = Options()
    assert (options.device_iterations, options.output_mode, options.log_dir) == (2, 2, "some.where")
    assert options.Training.gradient_accumulation == 3
    assert options._Popart.options["saveInitializersToFile"] == "file.onnx"
    assert options._Popart.options["cachePath"] == "cache"


@pytest.mark.parametrize("text", ["{", "[]", '{"deviceIteration": 2}', '{"device_iterations": 2}'])
def test_malformed_default_options(monkeypatch, text):
    monkeypatch.setenv("POPTORCH_DEFAULT_OPTIONS", text)
    with pytest.raises(ConfigFileError, match="POPTORCH_DEFAULT_OPTIONS"):
        Options()


def test_load_from_file(tmp_path):
    file = tmp_path / "options.conf"
    file.write_text(
        "# comment\n\n  deviceIterations(4)  # inline\nTraining.gradientAccumulation(gradient_accumulation=2)\n"
        "outputMode(poptorch.OutputMode.All)\nsetExecutionStrategy(poptorch.ShardedExecution())\n"
    )
    options = Options().replicationFactor(3).loadFromFile(str(file))
    assert (options.device_iterations, options.replication_factor, options.output_mode) == (4, 3, 2)
    assert options.Training.gradient_accumulation == 2
    assert isinstance(options._execution_strategy, ShardedExecution)


@pytest.mark.parametrize(
    "line", ["deviceIterations(", "nothing(1)", "deviceIterations('a')", "__class__()", "poptorch.Error()"]
)
def test_load_from_malformed_file(tmp_path, line):
    file = tmp_path / "options.conf"
    file.write_text(f"deviceIterations(2)\n{line}\n")
    with pytest.raises(ConfigFileError, match=r"line 2 of options\.conf"):
        Options().loadFromFile(str(file))


TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
OPENMPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}
POPRUN = {
    "POPDIST_NUM_TOTAL_REPLICAS": "8",
    "POPDIST_NUM_LOCAL_REPLICAS": "2",
    "POPDIST_REPLICA_INDEX_OFFSET": "6",
    "POPDIST_LOCAL_INSTANCE_INDEX": "1",
}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, (0, 1, 0)), (TORCHRUN, (3, 4, 1)), (OPENMPI, (1, 2, 0)), (POPRUN, (3, 4, 1))],
)
def test_launchers(monkeypatch, environment, expected):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert world() == expected
    distributed = Options().Distributed
    assert (distributed.processId, distributed.numProcesses) == expected[:2]
    assert distributed.launched == expected
    assert not distributed.configured


def test_distributed_by_hand(monkeypatch):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    options = Options().replicationFactor(4)
    assert options.local_replicas == 1
    options.Distributed.disable()
    assert (options.Distributed.numProcesses, options.local_replicas) == (1, 4)
    monkeypatch.setenv("MY_SIZE", "6")
    options.Distributed.setEnvVarNames("MY_SIZE", "MY_RANK")
    assert (options.Distributed.processId, options.Distributed.numProcesses) == (0, 6)
    assert options.Distributed.configured


def test_replicas_must_fit_the_processes(monkeypatch):
    for name, value in OPENMPI.items():
        monkeypatch.setenv(name, value)
    assert Options().replicationFactor(6).local_replicas == 3
    with pytest.raises(Error, match=r"replicationFactor\(3\).* 2 processes"):
        _ = Options().replicationFactor(3).local_replicas
