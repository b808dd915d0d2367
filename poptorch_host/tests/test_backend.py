"""The choice between the SDK and the host, in processes with stand-ins for the SDK's packages."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import poptorch_host
from poptorch_host import popart, popdist
from poptorch_host.popdist import poptorch as popdist_poptorch

SOURCE = str(Path(poptorch_host.__file__).parents[1])
SDK = {
    "poptorch/__init__.py": "__version__ = '3.4.0'\nclass Options: pass\n",
    "popart/__init__.py": "class SyntheticDataMode: RandomNormal = 'sdk'\n",
    "popdist/__init__.py": "def isPopdistEnvSet(): return 'sdk'\n",
    "popdist/poptorch.py": "class Options: pass\n",
}
REPORT = """
    from poptorch_host.backend import is_host, popart, popdist, poptorch, reason
    import sys
    print(poptorch.__name__, popdist.__name__, popart.__name__, is_host)
    print(reason)
    print(sorted(m for m in sys.modules if m in ("torch", "poptorch_host.api", "poptorch_host.executor")))
"""


def run(tmp_path, files, code=REPORT, **environment):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("POPTORCH", "POPDIST", "OMPI"))}
    path = os.pathsep.join([str(tmp_path), SOURCE])
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**clean, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return process.stdout.splitlines()


def test_without_sdk(tmp_path):
    names, reason, imported = run(tmp_path, {})
    assert names == "poptorch_host poptorch_host.popdist poptorch_host.popart True"
    assert reason == "poptorch: host (poptorch_host 0.1.0), because the Poplar SDK's poptorch is not installed"
    assert imported == "[]"  # nothing has been used yet


def test_with_sdk_nothing_of_the_host_is_imported(tmp_path):
    names, reason, imported = run(tmp_path, SDK)
    assert names == "poptorch popdist popart False"
    assert reason == "poptorch: Poplar SDK (poptorch 3.4.0); POPTORCH_HOST=1 chooses the host"
    assert imported == "[]"


@pytest.mark.parametrize(("value", "host"), [("1", True), ("0", False), ("", False)])
def test_poptorch_host_forces_the_host(tmp_path, value, host):
    names, reason, _ = run(tmp_path, SDK, POPTORCH_HOST=value)
    assert names.endswith(str(host))
    assert ("POPTORCH_HOST is set" in reason) is host


@pytest.mark.parametrize(
    ("package", "error", "told"),
    [
        ("poptorch", "assert False, 'only works with torch==2.0.1'", "AssertionError: only works with torch==2.0.1"),
        ("poptorch", "raise ImportError('libpoptorch.so:\\n no such file')", "ImportError: libpoptorch.so: no such"),
        ("popart", "raise OSError('GLIBC')", "OSError: GLIBC"),
    ],
)
def test_a_broken_sdk_falls_to_the_host_with_its_reason(tmp_path, package, error, told):
    names, reason, _ = run(tmp_path, {**SDK, f"{package}/__init__.py": error + "\n"})
    assert names == "poptorch_host poptorch_host.popdist poptorch_host.popart True"
    assert "because the Poplar SDK's poptorch can't be imported (" + told in reason


def test_sdk_without_popdist_reads_the_environment(tmp_path):
    files = {name: text for name, text in SDK.items() if not name.startswith("popdist")}
    (names, _, imported) = run(tmp_path, files)
    assert names == "poptorch poptorch_host.popdist popart False"
    assert imported == "[]"


def test_the_package_offers_its_names_lazily(tmp_path):
    code = """
        import sys
        import poptorch_host
        before = "torch" in sys.modules
        options = poptorch_host.Options().deviceIterations(2)
        from poptorch_host import optim, enums
        print(before, options.device_iterations, poptorch_host.optim is optim, "trainingModel" in dir(poptorch_host))
        exec("from poptorch_host import *")
        print(DataLoader.__module__, __import__("poptorch_host").__version__)
        print(hasattr(poptorch_host, "nothing"), hasattr(poptorch_host, "__wrapped__"))
    """
    assert run(tmp_path, {}, code) == [
        "False 2 True True",
        "poptorch_host.dataloader 0.1.0",
        "False False",
    ]


POPRUN = {
    "POPDIST_NUM_TOTAL_REPLICAS": "8",
    "POPDIST_NUM_LOCAL_REPLICAS": "2",
    "POPDIST_NUM_IPUS_PER_REPLICA": "4",
    "POPDIST_REPLICA_INDEX_OFFSET": "6",
    "POPDIST_LOCAL_INSTANCE_INDEX": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}


def numbers():
    popdist.init()
    return (
        popdist.isPopdistEnvSet(),
        popdist.getNumTotalReplicas(),
        popdist.getNumLocalReplicas(),
        popdist.getNumIpusPerReplica(),
        popdist.getReplicaIndexOffset(),
        popdist.getNumInstances(),
        popdist.getInstanceIndex(),
        popdist.getNumLocalInstances(),
        popdist.getLocalInstanceIndex(),
    )


def test_popdist(monkeypatch):
    for name in POPRUN:
        monkeypatch.delenv(name, raising=False)
    assert numbers() == (False, 1, 1, 1, 0, 1, 0, 1, 0)
    for name, value in POPRUN.items():
        monkeypatch.setenv(name, value)
    assert numbers() == (True, 8, 2, 4, 6, 4, 3, 2, 1)


def test_popdist_options(monkeypatch):
    for name, value in POPRUN.items():
        monkeypatch.setenv(name, value)
    options = popdist_poptorch.Options(4)
    assert isinstance(options, poptorch_host.Options)
    assert (options.replication_factor, options.local_replicas) == (8, 2)
    assert (options.Distributed.processId, options.Distributed.numProcesses) == (3, 4)
    for refused in (
        lambda: options.replicationFactor(8),
        lambda: options.useIpuId(1),
        lambda: options.Distributed.configureProcessId(0, 1),
        lambda: options.Distributed.setEnvVarNames("A", "B"),
        lambda: options.Distributed.disable(),
    ):
        with pytest.raises(RuntimeError, match="PopRun sets it"):
            refused()
    assert options.deviceIterations(3).clone().device_iterations == 3


def test_popart_numbers():
    assert int(popart.SyntheticDataMode.RandomNormal) == 2
    assert int(popart.AccumulateOuterFragmentSchedule.OverlapMemoryOptimized) == 3
    assert int(popart.SubgraphCopyingStrategy.JustInTime) == 1
