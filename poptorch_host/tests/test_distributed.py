"""Two processes of torchrun train as one does. The file runs itself as a script to be those processes."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

import poptorch_host as poptorch
from poptorch_host import MeanReductionStrategy, OutputMode, ReductionType
from poptorch_host.distributed import _buckets, _initialise, _store, add_up, device_for, join
from poptorch_host.errors import Error
from poptorch_host.launcher import World

DI, GA, R, MB, CALLS = 2, 2, 4, 3, 2


class Model(nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2))

    def forward(self, x, y):
        out = self.net(x)
        return out, nn.functional.cross_entropy(out, y)


def own_rows(tensor, process, processes):
    """The rows of this process's replicas in the order that one process would see."""
    own = R // processes
    rows = tensor.view(DI, GA, R, MB, *tensor.shape[1:])[:, :, process * own : (process + 1) * own]
    return rows.reshape(-1, *tensor.shape[1:])


def cases():
    mean, total = ReductionType.Mean, ReductionType.Sum
    post, running = MeanReductionStrategy.Post, MeanReductionStrategy.Running
    yield "post", mean, post, False, False, lambda p: poptorch.optim.AdamW(p, lr=0.01)
    yield "running", mean, running, False, False, lambda p: poptorch.optim.SGD(p, lr=0.1, momentum=0.9)
    yield "sum", total, post, False, False, lambda p: torch.optim.SGD(p, lr=0.01)
    yield "sharded", mean, post, False, True, lambda p: poptorch.optim.AdamW(p, lr=0.01, max_grad_norm=0.5)
    yield "half", mean, running, True, False, lambda p: poptorch.optim.SGD(p, lr=0.1, accum_type=torch.float16)


def train(process, processes):
    seen = {}
    for name, reduction, strategy, half, shard, optimizer in cases():
        options = poptorch.Options().deviceIterations(DI).replicationFactor(R).outputMode(OutputMode.All)
        options.Training.gradientAccumulation(GA).accumulationAndReplicationReductionType(reduction)
        options.Training.setMeanAccumulationAndReplicationReductionStrategy(strategy)
        sharding = poptorch.TensorLocationSettings().useReplicatedTensorSharding(shard)
        options.TensorLocations.setOptimizerLocation(sharding)
        model = Model(seed=process)  # the first process's weights count
        model = model.half() if half else model
        executor = poptorch.trainingModel(model, options, optimizer(model.parameters()))
        generator = torch.Generator().manual_seed(0)
        for call in range(CALLS):
            x = torch.randn(DI * GA * R * MB, 4, generator=generator)
            y = torch.randint(2, (len(x),), generator=generator)
            x = x.half() if half else x
            out, _ = executor(own_rows(x, process, processes), own_rows(y, process, processes))
            seen[f"{name} outputs {call}"] = out
        seen.update({f"{name} {key}": value for key, value in executor.state_dict().items()})
    return seen


def stop_together(process, processes):
    """A bad row in the last process only: every process must raise, and keep its weights."""
    options = poptorch.Options().replicationFactor(processes)
    options.Precision.enableFloatingPointExceptions(True)
    model = Model(seed=0)
    executor = poptorch.trainingModel(model, options, torch.optim.SGD(model.parameters(), lr=0.1))
    x = torch.full((MB, 4), torch.nan if process == processes - 1 else 1.0)
    try:
        executor(x, torch.zeros(MB, dtype=torch.int64))
    except poptorch.Error as error:
        return {"error": str(error), "weights": model.net[0].weight.detach()}
    return {"error": ""}


def odd_replicas():
    try:
        poptorch.trainingModel(Model(0), poptorch.Options().replicationFactor(3)).compile(
            torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64)
        )
    except poptorch.Error as error:
        return str(error)
    return ""


def run(folder, *launcher):
    environment = {**os.environ, "POPTORCH_HOST_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, __file__, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """What one process saw, and what each of two saw."""
    folder = tmp_path_factory.mktemp("reports")
    run(folder)
    run(folder, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    names = ("0-of-1", "0-of-2", "1-of-2")
    return [torch.load(folder / f"{name}.pt", weights_only=False) for name in names]


@pytest.mark.parametrize("case", [case[0] for case in cases()])
def test_two_processes_train_as_one(reports, case):
    alone, *both = (report["seen"] for report in reports)
    tolerance = 1e-6 if case != "half" else 2e-3
    weights = [name for name in alone if name.startswith(f"{case} net")]
    assert len(weights) == 4
    for name in weights:
        for process in both:
            torch.testing.assert_close(process[name], alone[name], rtol=tolerance, atol=tolerance)
        assert torch.equal(both[0][name], both[1][name])
    for call in range(CALLS):
        name = f"{case} outputs {call}"
        for process, seen in enumerate(both):
            own = own_rows(alone[name], process, 2)
            torch.testing.assert_close(seen[name], own, rtol=10 * tolerance, atol=10 * tolerance)


def test_every_process_stops_when_one_sees_a_bad_loss(reports):
    for report in reports[1:]:
        assert "loss of device iteration 0" in report["stop"]["error"]
        assert torch.equal(report["stop"]["weights"], Model(0).net[0].weight)


def test_replicas_that_cannot_be_dealt_out_are_refused(reports):
    assert reports[0]["odd"] == ""
    assert "multiple of 2" in reports[1]["odd"]


def test_a_group_of_another_size_than_launched_is_refused(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with pytest.raises(poptorch.Error, match="started 2 processes but the group has 1"):
            join(World(0, 2), torch.device("cpu"))
    finally:
        dist.destroy_process_group()


def start_by_hand(port, *arguments):
    """Two processes with OpenMPI's variables and no launcher that would end one when the other dies."""
    names = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK")
    environment = {**os.environ, "POPTORCH_HOST_DEVICE": "cpu", "OMP_NUM_THREADS": "1", "MASTER_PORT": str(port)}
    environment["OMPI_COMM_WORLD_SIZE"] = environment["OMPI_COMM_WORLD_LOCAL_SIZE"] = "2"
    both = [
        subprocess.Popen(
            [sys.executable, __file__, *arguments],
            env={**environment, **dict.fromkeys(names, str(process))},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(2)
    ]
    return [(process.communicate(timeout=120)[0], process.returncode) for process in both]


def test_a_process_whose_partner_dies_ends_with_an_error():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (survivor, status), (_, dead) = start_by_hand(port, "die")
    assert (status, dead) == (1, 9)
    assert "the first update is done" in survivor
    assert "Connection" in survivor


def test_processes_on_several_machines_need_an_address(monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "1")
    with pytest.raises(poptorch.Error, match="MASTER_ADDR"):
        join(World(0, 2), torch.device("cpu"))


def test_waiting_for_the_others_is_mentioned(monkeypatch, capsys):
    monkeypatch.setenv("MASTER_ADDR", "there")
    monkeypatch.setenv("MASTER_PORT", "7")
    monkeypatch.setattr("poptorch_host.distributed._PATIENCE", 0.01)
    monkeypatch.setattr("poptorch_host.distributed.atexit.register", lambda _: None)
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: time.sleep(0.3))
    _initialise(World(1, 2), torch.device("cpu"))
    assert "process 1 of 2 still waits at there:7" in capsys.readouterr().err


def test_a_single_process_needs_no_group():
    assert join(World(0, 1), torch.device("cpu")) is None
    values = [torch.ones(3)]
    add_up(values, None)
    assert values[0].tolist() == [1.0, 1.0, 1.0]
    assert not dist.is_initialized()


def test_gradients_travel_in_buckets_of_one_type(monkeypatch):
    monkeypatch.setattr("poptorch_host.distributed._BUCKET_BYTES", 16)
    sizes = [(2, torch.float32), (8, torch.float16), (2, torch.float32), (1, torch.float32), (9, torch.float32)]
    buckets = _buckets([torch.zeros(n, dtype=dtype) for n, dtype in sizes])
    assert sorted([t.numel() for t in bucket] for bucket in buckets) == [[1], [2, 2], [8], [9]]


def test_the_device_can_be_chosen(monkeypatch):
    monkeypatch.setenv("POPTORCH_HOST_DEVICE", "cpu")
    assert device_for(World(0, 1)) == torch.device("cpu")
    monkeypatch.setenv("POPTORCH_HOST_DEVICE", "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert device_for(World(5, 8, 5)) == torch.device("cuda", 5)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # each process sees its own only
    assert device_for(World(5, 8, 5)) == torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("chosen", "gpus", "said"),
    [
        ("gpu", 1, "is 'gpu': use cpu, cuda or cuda:N"),
        ("cuda", 0, "is 'cuda' and torch finds 0 GPUs: check nvidia-smi, or use cpu"),
        ("cuda:1", 1, "is 'cuda:1' and torch finds 1 GPU: check"),
    ],
)
def test_a_device_that_is_not_there_is_told(monkeypatch, chosen, gpus, said):
    monkeypatch.setenv("POPTORCH_HOST_DEVICE", chosen)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(Error, match=re.escape(said)):
        device_for(World(0, 1))


def die(process):
    """One update together; then the second process is gone."""
    model = Model(0)
    executor = poptorch.trainingModel(model, poptorch.Options().replicationFactor(2))
    batch = torch.ones(MB, 4), torch.zeros(MB, dtype=torch.int64)
    executor(*batch)
    if process == 1:
        os._exit(9)
    print("the first update is done")
    while True:
        executor(*batch)


def test_processes_that_torchrun_has_restarted_find_no_addresses_of_those_before(monkeypatch):
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    launched = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    server.set("address", "of a process that has ended")
    for _ in range(2):
        with ThreadPoolExecutor(3) as threads:
            found = list(threads.map(_store, [World(process, 3, 0) for process in range(3)]))
        assert not found[0].check(["address"])
        found[0].set("address", "of one that will have ended")
        assert [store.get("address") for store in found] == [b"of one that will have ended"] * 3
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")  # the first process has a new store
    assert _store(World(0, 1, 0)) is None


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "die":
        die(poptorch.Options().Distributed.processId)
    process, processes, _ = poptorch.Options().Distributed.launched
    report = {"seen": train(process, processes), "stop": stop_together(process, processes), "odd": odd_replicas()}
    torch.save(report, Path(sys.argv[1]) / f"{process}-of-{processes}.pt")
