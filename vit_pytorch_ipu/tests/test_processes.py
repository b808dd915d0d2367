"""Two processes under torchrun against one."""

import json
import signal
import subprocess
import sys
import time

import pytest

from tests.scripts import APP, Finished, environment, run_script, tiny

RECIPE = ["--training-steps", 5, "--replication-factor", 2, "--gradient-accumulation", 3, "--hidden-dropout-prob", 0]
RECIPE += ["--learning-rate", 0.003]


def losses(folder, split="train"):
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["split"] == split]


LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def start(script, *arguments):
    return subprocess.Popen(
        [*LAUNCHER, str(script), *map(str, arguments)],
        cwd=APP,
        env=environment(PYTHONPATH=str(APP)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    output, error = process.communicate(timeout=300)
    return Finished(process.returncode, output, error)


@pytest.fixture(scope="module")
def one(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "one"
    done = run_script("finetune.py", *tiny(digits, folder, *RECIPE))
    assert done.status == 0, done.error
    return folder


@pytest.mark.parametrize("sharded", ["true", "false"])
def test_two_processes_give_the_losses_of_one(digits, one, tmp_path, sharded):
    two = finish(start("finetune.py", *tiny(digits, tmp_path, *RECIPE, "--enable-rts", sharded)))
    assert two.status == 0, two.error
    assert len(losses(one)) == 5
    assert losses(tmp_path) == pytest.approx(losses(one), abs=1e-5)
    assert losses(tmp_path, "validation") == pytest.approx(losses(one, "validation"), abs=1e-5)
    assert two.output.count("global batch") == 1


def test_two_processes_that_are_asked_to_stop_save_and_resume_exactly(digits, tmp_path):
    recipe = [*RECIPE, "--training-steps", 30, "--hidden-dropout-prob", 0.3, "--evaluate", "false"]
    whole = finish(start("finetune.py", *tiny(digits, tmp_path / "whole", *recipe)))
    assert whole.status == 0, whole.error
    cut = start("finetune.py", *tiny(digits, tmp_path / "cut", *recipe))
    history = tmp_path / "cut" / "history.jsonl"
    while cut.poll() is None and not (history.exists() and history.read_text().count("\n") >= 2):
        time.sleep(0.01)
    cut.send_signal(signal.SIGTERM)
    error = finish(cut).error
    assert "[rank 0] stopped: " in error
    assert "[rank 1] stopped: " in error
    assert len(losses(tmp_path / "cut")) < 30
    again = finish(start("finetune.py", *tiny(digits, tmp_path / "cut", *recipe, "--resume")))
    assert again.status == 0, again.error
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


FAILS_ON_RANK_1 = """
import os
import finetune
from dataset import ImageDataset
from run.errors import UserError, entry_point

honest, calls = ImageDataset.sample, []

def sample(self, epoch, index):
    calls.append(index)
    if os.environ["RANK"] == "1" and len(calls) == int(os.environ["FAILS_AT"]):
        raise UserError("image x.jpg is beyond repair")
    return honest(self, epoch, index)

ImageDataset.sample = sample
entry_point(finetune.main)
"""


@pytest.mark.parametrize("call", ["60", "120"])  # while the other one waits for a gradient; for a number
def test_a_process_that_fails_ends_the_run_with_its_reason(digits, tmp_path, monkeypatch, call):
    monkeypatch.setenv("FAILS_AT", call)
    script = tmp_path / "fails.py"
    script.write_text(FAILS_ON_RANK_1)
    done = finish(start(script, *tiny(digits, tmp_path / "run", *RECIPE)))
    assert done.status == 1
    assert "[rank 1] error: image x.jpg is beyond repair" in done.error
    assert "[rank 0] error: another process of this run has ended" in done.error
