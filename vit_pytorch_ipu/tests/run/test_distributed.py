"""Sums, flags and run folders over real processes; places that launchers give."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist

from run import distributed
from run.errors import UserError
from run.launcher import place

TOGETHER = """
import sys
from pathlib import Path
from run import distributed as d
from run.errors import UserError, entry_point
from run.folder import open_run

def main(argv):
    rank = d.rank()
    assert (d.world_size(), d.local_rank(), d.is_main()) == (2, rank, rank == 0)
    exact = 2.0 ** 52 + 1
    assert d.all_reduce_sum([1, rank, exact * rank, 0.1]) == [2.0, 1.0, exact, 0.2]
    assert d.any_rank(rank == 1) and not d.any_rank(False)
    assert d.all_gather({"rank": rank}) == [{"rank": 0}, {"rank": 1}]
    with open_run(Path(sys.argv[1]) / "run", resume=False) as folder:
        assert not folder.resuming
        d.barrier()
        if rank == 0:
            (folder.checkpoints / "step-1").mkdir(parents=True)
    with open_run(Path(sys.argv[1]) / "run", resume=True) as folder:
        assert folder.resuming
    try:
        with open_run(Path(sys.argv[1]) / "run", resume=False):
            raise AssertionError("not refused")
    except UserError as error:
        print("refused", type(error).__name__)
    import torch.distributed
    assert torch.distributed.get_world_size() == 2
    if sys.argv[2] == "fails" and rank == 1:
        raise UserError("rank 1 has had enough")

entry_point(main)
"""


@pytest.mark.parametrize("launcher", ["torchrun", "mpirun"])
def test_two_processes(run_together, tmp_path, launcher):
    first, second = run_together(TOGETHER, tmp_path, "succeeds", launcher=launcher)
    assert first == (0, "refused UsageError\n", "")
    assert second == (0, "refused UserError\n", "")


def test_a_process_that_fails_says_so_and_exits(run_together):
    code = """
from run import distributed
from run.errors import UserError, entry_point

def main(argv):
    distributed.barrier()
    if distributed.rank() == 1:
        raise UserError("rank 1 has had enough")

entry_point(main)
"""
    first, second = run_together(code)
    assert first == (
        1,
        "",
        "[rank 0] error: another process of this run has ended or can't be reached: see its message\n",
    )
    assert second == (1, "", "[rank 1] error: rank 1 has had enough\n")


def test_processes_that_do_not_know_of_each_other_are_noticed(run):
    code = """
import torch.distributed as dist
from run import distributed
from run.errors import entry_point

def main(argv):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    distributed.all_reduce_sum([1.0])

entry_point(main)
"""
    launched = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "8"}
    exit_code, _, errors = run(code, **launched)
    assert exit_code == 1
    assert "mpirun started 8 processes but torch.distributed has 1" in errors


def test_hosts_that_have_no_common_address(run):
    launched = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}
    code = "from run import distributed, errors\nerrors.entry_point(lambda argv: distributed.barrier())"
    exit_code, _, errors = run(code, **launched)
    assert exit_code == 1
    assert "export MASTER_ADDR" in errors


def test_a_process_alone_needs_nothing():
    assert (distributed.rank(), distributed.world_size(), distributed.local_rank()) == (0, 1, 0)
    assert distributed.all_reduce_sum([1, 0.5]) == [1.0, 0.5]
    assert distributed.any_rank(True)
    assert not distributed.any_rank(False)
    assert distributed.all_gather("x") == ["x"]
    distributed.barrier()
    distributed.shutdown()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1, 0, "")),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, (3, 8, 1, "torchrun")),
        (
            {"OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_SIZE": "6", "OMPI_COMM_WORLD_LOCAL_RANK": "2"},
            (5, 6, 2, "mpirun"),
        ),
        (
            {
                "POPDIST_NUM_TOTAL_REPLICAS": "16",
                "POPDIST_NUM_LOCAL_REPLICAS": "2",
                "POPDIST_REPLICA_INDEX_OFFSET": "6",
            },
            (3, 8, 0, "poprun"),
        ),
        (
            {"RANK": "1", "WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"},
            (1, 2, 0, "torchrun"),
        ),
    ],
)
def test_place_among_the_processes(environment, expected):
    assert place(environment) == expected


@pytest.mark.parametrize(
    "environment",
    [{"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "x", "WORLD_SIZE": "2"}, {"OMPI_COMM_WORLD_SIZE": "2"}],
)
def test_places_that_make_no_sense(environment):
    with pytest.raises(UserError):
        place(environment)


def test_a_lost_process_is_told_whichever_library_noticed_and_other_errors_are_left_alone(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with pytest.raises(UserError, match="another process of this run has ended"), distributed.peers_needed():
        raise RuntimeError("[third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer")
    with pytest.raises(RuntimeError, match="shapes"), distributed.peers_needed():
        raise RuntimeError("shapes do not fit")


@pytest.fixture
def torchrun_s_store(monkeypatch):
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    launched = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.port)}
    for name, value in {**launched, "TORCHELASTIC_USE_AGENT_STORE": "True"}.items():
        monkeypatch.setenv(name, value)
    return server


def test_processes_that_torchrun_has_restarted_find_no_addresses_of_those_before(torchrun_s_store, monkeypatch):
    torchrun_s_store.set("address", "of a process that has ended")
    for _ in range(2):
        found = distributed.store()
        assert not found.check(["address"])
        found.set("address", "of one that will have ended")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")  # the first process has a new store
    assert distributed.store() is None


@pytest.mark.parametrize("left", [None, "earlier", "earlier complete"])
@pytest.mark.parametrize("late", range(3))
def test_all_processes_of_a_start_agree_on_its_name_whatever_an_earlier_one_left(torchrun_s_store, left, late):
    if left:
        torchrun_s_store.set("start", left)

    def start(rank):
        time.sleep(0.1 * (rank == late))
        client = dist.TCPStore("127.0.0.1", torchrun_s_store.port, is_master=False, wait_for_workers=False)
        return distributed._name_of_start(client, rank, 3)

    with ThreadPoolExecutor(3) as threads:
        names = set(threads.map(start, range(3)))
    assert len(names) == 1
    assert names != {"earlier"}
