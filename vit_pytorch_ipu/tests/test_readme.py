"""Every command of the README, run on small data as a newcomer would from this folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scripts import APP, environment

sys.path.insert(0, str(APP.parent / "ci"))
from readme_commands import commands

COMMANDS = commands(APP / "README.md")


def test_the_documents_commands_are_there():
    texts = [command.text for command in COMMANDS]
    for wanted in (
        "python finetune.py --config b16_cifar10",
        "python validation.py --config b16_cifar10_valid",
        "python finetune.py --config b16_imagenet1k",
        "python validation.py --config b16_imagenet1k_valid",
        "python3 finetune.py --config b16_imagenet1k_ALS",
        "pip3 install -r requirements.txt",
    ):
        assert wanted in texts


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
        env=dict(environment(), PATH=path),
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, f"{command.to_run}\n{done.stdout}\n{done.stderr}"
