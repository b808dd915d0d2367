"""Several processes: who they are, and that they train as one does."""

import json
import re

import numpy as np
import pytest
import tensorflow as tf

import distributed
import errors
from distributed import cluster, flat, unflat
from errors import UsageError, UserError
from launcher import Place, place
from tests.runs import final_weights, measured, run_script, tiny

OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "8"}
LOCAL = {"OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}
TF_CONFIG = {"cluster": {"worker": ["a:1", "a:2", "b:1", "b:2"]}, "task": {"type": "worker", "index": 3}}


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, Place(0, 1, 0, 1, "")),
        ({**OPEN_MPI, **LOCAL}, Place(3, 8, 1, 4, "mpirun")),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, Place(1, 2, 0, 2, "mpirun")),
        ({"TF_CONFIG": json.dumps(TF_CONFIG)}, Place(3, 4, 1, 2, "TF_CONFIG")),
        ({"TF_CONFIG": "{"}, Place(0, 1, 0, 1, "")),
        ({**OPEN_MPI, **LOCAL, "TF_CONFIG": json.dumps(TF_CONFIG)}, Place(3, 8, 1, 4, "mpirun")),
    ],
)
def test_place(environment, found):
    assert place(environment) == found


def test_cluster_counts_ports_up_on_each_host_in_the_order_of_the_ranks(monkeypatch):
    monkeypatch.setenv("MULTI_HLS_IPS", "10.0.0.1, 10.0.0.2")
    assert distributed.hosts() == ["10.0.0.1", "10.0.0.2"]
    found = cluster(Place(2, 4, 0, 2, "mpirun"), 7850, distributed.hosts())
    assert found["cluster"]["worker"] == ["10.0.0.1:7850", "10.0.0.1:7851", "10.0.0.2:7850", "10.0.0.2:7851"]
    assert found["task"] == {"type": "worker", "index": 2}
    monkeypatch.delenv("MULTI_HLS_IPS")
    assert cluster(Place(0, 2, 0, 2, "mpirun"), 9000, distributed.hosts())["cluster"]["worker"] == [
        "127.0.0.1:9000",
        "127.0.0.1:9001",
    ]


def test_a_cluster_that_can_not_be():
    with pytest.raises(UsageError, match="3 processes can't be dealt out evenly to the 2 hosts"):
        cluster(Place(0, 3, 0, 3, "mpirun"), 7850, ["a", "b"])
    with pytest.raises(UsageError, match="leaves no ports"):
        cluster(Place(0, 2, 0, 2, "mpirun"), 65535, ["a"])


class _World:
    def __init__(self, names=()):
        self._names = names

    def allgather(self, _):
        return list(self._names)


def test_tf_config_is_left_alone_and_ranks_lie_host_by_host(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "theirs")
    distributed.set_tf_config(Place(0, 2, 0, 2, "mpirun"), 7850, _World())
    assert distributed.os.environ["TF_CONFIG"] == "theirs"
    monkeypatch.delenv("TF_CONFIG")
    monkeypatch.setenv("MULTI_HLS_IPS", "a,b")
    with pytest.raises(UserError, match="not placed host by host"):
        distributed.set_tf_config(Place(0, 4, 0, 2, "mpirun"), 7850, _World("abab"))


def test_a_port_in_use_is_told(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with distributed.socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is in use"):
            distributed.set_tf_config(Place(0, 1, 0, 1, "mpirun"), port, _World("a"))


def test_another_mpi_than_the_launchers_is_refused():
    with pytest.raises(UserError, match=r"mpirun says rank 1 of 2, mpi4py rank 0 of 1"):
        distributed.communicator(Place(1, 2, 1, 2, "mpirun"))


def test_mpi_reduction_needs_mpirun():
    with pytest.raises(UsageError, match="needs mpirun"):
        distributed.join(Place(0, 2, 0, 2, "TF_CONFIG"), reduction="mpi", base_port=1, make_strategy=lambda: None)


def test_flat_and_back():
    tensors = [tf.random.normal(shape) for shape in ((2, 3), (), (4,))]
    parts = unflat(flat(tensors), [tensor.shape for tensor in tensors])
    assert all((one.numpy() == other.numpy()).all() for one, other in zip(tensors, parts))


def test_numbers_that_are_agreed_on_survive_float32():
    alone = distributed.alone()
    for number in (0, 1, 2**31 - 1, 2**59 + 12345):
        assert alone.agree(number) == number


@pytest.fixture(scope="module")
def one_process(digits, tmp_path_factory):
    """Three updates of 2, 2 and 1 micro-steps with dropout and augmentation, and a validation."""
    folder = tmp_path_factory.mktemp("one") / "run"
    done = run_script("train.py", *arguments(digits, folder))
    assert done.status == 0, done.error
    return folder


def arguments(digits, folder, *more):
    recipe = ["--epochs", 1, "--steps_per_epoch", 5, "--lr_sched", "constant", "--initial_lr", 0.1, "--seed", 3]
    words = tiny(digits, folder)
    at = words.index("--warmup_steps")
    return [*words[:at], *words[at + 2 :], *recipe, *more]


@pytest.mark.parametrize("reduction", ["auto", "strategy"])
def test_two_processes_train_as_one_does(digits, one_process, tmp_path, reduction):
    port = 20000 + distributed.os.getpid() % 20000
    more = ["--distributed", "--reduction", reduction, "--base_tf_server_port", port]
    done = run_script("train.py", *arguments(digits, tmp_path / "run", *more), ranks=2)
    assert done.status == 0, done.output + done.error
    means = {"auto": "MPI", "strategy": "CollectiveAllReduceStrategy"}[reduction]
    assert f"2 processes, sums by {means}" in done.output
    expected, found = measured(one_process), measured(tmp_path / "run")
    assert len(found) == 4
    for one, two in zip(expected, found):
        assert one.keys() == two.keys()
        for name in one.keys() - {"split"}:
            assert two[name] == pytest.approx(one[name], rel=2e-5), name
    assert found[-1]["samples"] == 37  # of which two workers' batches of 4 hold 40
    whole, parts = final_weights(one_process), final_weights(tmp_path / "run")
    assert max(float(np.abs(whole[name] - parts[name]).max()) for name in whole) < 2e-6


@pytest.mark.parametrize(("rank", "waits"), [(0, []), (1, [errors.FIRST_SPEAKS])])
def test_wrong_usage_is_left_to_the_first_process(monkeypatch, capsys, rank, waits):
    """Whoever ends first ends all, so the others wait before they tell it."""
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", str(rank))
    waited = []
    monkeypatch.setattr("errors.time.sleep", waited.append)

    def main(_):
        raise errors.UsageError("wrong")

    with pytest.raises(SystemExit):
        errors.entry_point(main, [])
    assert waited == waits
    assert capsys.readouterr().err == f"[rank {rank}] error: wrong\n"


def test_a_failing_rank_ends_all_with_one_sentence(digits, tmp_path):
    more = ["--distributed", "--num_classes", 3]
    done = run_script("train.py", *arguments(digits, tmp_path / "run", *more), ranks=2)
    assert done.status == 2
    found = re.findall(r"error: --num_classes 3 is less than the 10 classes", done.output + done.error)
    assert len(found) == 1
