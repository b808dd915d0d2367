"""Two processes under torchrun against one."""

import json
import subprocess
import sys

import pytest

from tests.scripts import APP, environment, run_script, tiny

RECIPE = ["--training-steps", 5, "--replication-factor", 2, "--gradient-accumulation", 3, "--hidden-dropout-prob", 0]
RECIPE += ["--learning-rate", 0.003, "--eval-every", 5]


def losses(folder, split="train"):
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["split"] == split]


def torchrun(*arguments):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*launcher, "finetune.py", *map(str, arguments)],
        cwd=APP,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("sharded", ["true", "false"])
def test_two_processes_give_the_losses_of_one(digits, tmp_path, sharded):
    more = [*RECIPE, "--enable-rts", sharded]
    one = run_script("finetune.py", *tiny(digits, tmp_path / "one", *more))
    assert one.status == 0, one.error
    two = torchrun(*tiny(digits, tmp_path / "two", *more))
    assert two.returncode == 0, two.stderr
    assert len(losses(tmp_path / "one")) == 5
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    assert losses(tmp_path / "two", "validation") == pytest.approx(losses(tmp_path / "one", "validation"), abs=1e-5)
    assert two.stdout.count("global batch") == 1


def test_two_processes_resume_exactly(digits, tmp_path):
    recipe = [*RECIPE, "--hidden-dropout-prob", 0.3, "--evaluate", "false"]
    whole = torchrun(*tiny(digits, tmp_path / "whole", *recipe))
    assert whole.returncode == 0, whole.stderr
    import shutil

    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    saved = torchrun(*tiny(digits, tmp_path / "cut", *recipe, "--checkpoint-save-steps", 2))
    assert saved.returncode == 0, saved.stderr
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-5")
    again = torchrun(*tiny(digits, tmp_path / "cut", *recipe, "--resume"))
    assert again.returncode == 0, again.stderr
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
