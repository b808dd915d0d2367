"""Every command of the README, run on small data as a newcomer would from this folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scripts import APP, environment
from tests.test_processes import AS_ROOT

sys.path.insert(0, str(APP.parent / "ci"))
from readme_commands import commands

COMMANDS = commands(APP / "README.md")
DOCUMENTED = """python train.py --name imagenet1k_TF --dataset imagenet1K --data_path /dataset --model_type ViT-B_16
    --pretrained_dir /pretrained/ViT-B_16.npz --output_dir /output --num_steps 20000 --eval_every 1000
    --train_batch_size 64 --gradient_accumulation_steps 2 --img_size 384 --learning_rate 0.06 --autocast"""


def test_the_documents_command_is_there():
    assert " ".join(DOCUMENTED.split()) in [command.text for command in COMMANDS]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder of links to the app's files, so that data and output of the commands stay out of the app's folder."""
    folder = tmp_path_factory.mktemp("readme")
    for name in os.listdir(APP):
        if name not in {"data", "output", "tests", "__pycache__"}:
            (folder / name).symlink_to(APP / name)
    return folder


@pytest.mark.parametrize("command", [command for command in COMMANDS if not command.skipped], ids=lambda c: c.text)
def test_command(command, workplace):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", command.to_run],
        cwd=workplace,
        env=dict(environment(**AS_ROOT), PATH=path),
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, f"{command.to_run}\n{done.stdout}\n{done.stderr}"
