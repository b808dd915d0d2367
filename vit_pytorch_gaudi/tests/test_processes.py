"""Several processes against one: under torchrun, under mpirun, and forked with torchrun's variables."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

import train
from tests.forked import Forked
from tests.scripts import APP, environment, records, tiny

RECIPE = ["--num_steps", 5, "--global_batch_size", 48, "--hidden_dropout_prob", 0, "--eval_batch_size", 50]


def losses(folder, split="train"):
    return [record["loss"] for record in records(folder, split)]


@pytest.fixture(scope="module")
def one(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "one"
    train.main(tiny(digits, folder, *RECIPE))
    return folder


def assert_same_as_one(one, two):
    assert len(losses(one)) == 5
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    for measure in ("accuracy", "top5", "samples"):
        assert records(two, "validation")[0][measure] == records(one, "validation")[0][measure]
    assert losses(two, "validation") == pytest.approx(losses(one, "validation"), abs=1e-5)
    first, second = (load_file(f / "checkpoints" / "step-5" / "weights" / "model.safetensors") for f in (one, two))
    assert all((first[name] - second[name]).abs().max() < 1e-5 for name in first)


LAUNCHERS = {
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    "mpirun": [str(Path(sys.executable).parent / "mpirun"), "-np", "2", sys.executable],
}
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
AS_ROOT["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_give_the_losses_of_one(digits, one, tmp_path, launcher):
    done = subprocess.run(
        [*LAUNCHERS[launcher], "train.py", *tiny(digits, tmp_path / "two", *RECIPE)],
        cwd=APP,
        env=environment(**AS_ROOT),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert_same_as_one(one, tmp_path / "two")
    assert done.stdout.count("global batch") == 1
    assert "48 = micro-batch 8 × accumulation 3 × cards 2; fixed by --global-batch-size" in done.stdout


def together(count, arguments, log):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    return [
        Forked(arguments, Path(f"{log}-{rank}"), RANK=str(rank), LOCAL_RANK=str(rank), **shared)
        for rank in range(count)
    ]


def finish(processes):
    statuses = [process.wait() for process in processes]
    return statuses, [process.log.read_text() for process in processes]


def test_three_processes_whose_shares_of_the_validation_split_differ(digits, one, tmp_path):
    statuses, logs = finish(together(3, tiny(digits, tmp_path / "two", *RECIPE), tmp_path / "log"))
    assert statuses == [0, 0, 0], logs
    assert_same_as_one(one, tmp_path / "two")


def test_two_processes_that_are_asked_to_stop_save_and_resume_exactly(digits, tmp_path):
    recipe = ["--num_steps", 30, "--hidden_dropout_prob", 0.3, "--log_every", 1]
    statuses, logs = finish(together(2, tiny(digits, tmp_path / "whole", *recipe), tmp_path / "log"))
    assert statuses == [0, 0], logs
    cut = together(2, tiny(digits, tmp_path / "cut", *recipe), tmp_path / "log")
    history = tmp_path / "cut" / "history.jsonl"
    while cut[0].running() and not (history.exists() and history.read_text().count("\n") >= 2):
        time.sleep(0.005)
    cut[1].signal(signal.SIGTERM)  # one of them is enough
    statuses, logs = finish(cut)
    assert statuses == [75, 75], logs
    assert [f"[rank {rank}] stopped: " in log for rank, log in enumerate(logs)] == [True, True]
    assert len(losses(tmp_path / "cut")) < 30
    statuses, logs = finish(together(2, tiny(digits, tmp_path / "cut", *recipe, "--resume"), tmp_path / "log"))
    assert statuses == [0, 0], logs
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_a_run_of_two_processes_is_resumed_by_one(digits, one, tmp_path):
    statuses, logs = finish(together(2, tiny(digits, tmp_path / "two", *RECIPE, "--num_steps", 3), tmp_path / "log"))
    assert statuses == [0, 0], logs
    train.main(tiny(digits, tmp_path / "two", *RECIPE, "--resume"))
    assert [record["step"] for record in records(tmp_path / "two", "train")] == [1, 2, 3, 4, 5]


def test_gradients_are_exchanged_once_an_update(digits, tmp_path, monkeypatch):
    """Of three micro-batches the first two stay under no_sync, which Forked's children tell by their log."""
    from torch.nn.parallel import DistributedDataParallel

    honest = DistributedDataParallel.no_sync

    def told(self):
        os.write(1, b"no_sync\n")
        return honest(self)

    monkeypatch.setattr(DistributedDataParallel, "no_sync", told)
    statuses, logs = finish(together(2, tiny(digits, tmp_path / "two", *RECIPE), tmp_path / "log"))
    assert statuses == [0, 0], logs
    assert [log.count("no_sync\n") for log in logs] == [10, 10]  # 5 updates of 3 micro-batches


def test_a_process_that_fails_ends_the_run_with_its_reason(digits, tmp_path, monkeypatch):
    from dataset import ImageDataset
    from run.errors import UserError

    honest, calls = ImageDataset.sample, []

    def sample(self, epoch, index):
        calls.append(index)
        if os.environ["RANK"] == "1" and len(calls) == 60:
            raise UserError("image x.jpg is beyond repair")
        return honest(self, epoch, index)

    monkeypatch.setattr(ImageDataset, "sample", sample)
    statuses, logs = finish(together(2, tiny(digits, tmp_path / "run", *RECIPE), tmp_path / "log"))
    assert statuses == [1, 1]
    assert "[rank 1] error: image x.jpg is beyond repair" in logs[1]
    assert "[rank 0] error: another process of this run has ended" in logs[0]
