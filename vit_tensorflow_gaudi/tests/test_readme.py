"""Every command of the README, run on small data as a newcomer would from this folder."""

import os
import subprocess
import sys

import pytest

from tests.runs import APP, BIN, environment

sys.path.insert(0, str(APP.parent / "ci"))
from readme_commands import commands

COMMANDS = commands(APP / "README.md")


def test_the_documents_commands_are_there():
    texts = [command.text for command in COMMANDS]
    for wanted in (
        "$PYTHON train.py --grad_accum_steps 2 --epochs 8",
        "mpirun -np 8 python train.py -d fp32 --batch_size 256 --warmup_steps 1000 --distributed",
        "$PYTHON train.py --epochs 1 --steps_per_epoch 20 --profile 12,15",
        "$PYTHON preprocess_imagenet.py --raw_data_dir=$IMAGENET_HOME "
        "--local_scratch_dir=$IMAGENET_HOME/imagenet/tf_records",
        "pip install -r requirements.txt",
    ):
        assert wanted in texts


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder of links to the app's files, so that data and output of the commands stay out of the app's folder."""
    top = tmp_path_factory.mktemp("readme")
    (top / "common").symlink_to(APP.parent / "common")
    folder = top / APP.name
    folder.mkdir()
    for name in os.listdir(APP):
        if name not in {"data", "output", "tests", "__pycache__"}:
            (folder / name).symlink_to(APP / name)
    return folder


@pytest.mark.parametrize("command", [command for command in COMMANDS if not command.skipped], ids=lambda c: c.text[:60])
def test_command(command, workplace):
    done = subprocess.run(
        ["bash", "-euc", command.to_run],
        cwd=workplace,
        env=environment(PYTHON=str(BIN / "python")),
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, f"{command.to_run}\n{done.stdout}\n{done.stderr}"
