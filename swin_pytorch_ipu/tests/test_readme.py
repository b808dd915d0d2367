"""Every command of the README, run on small data as a newcomer would from this folder."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forks import forks
from tests.scripts import APP, environment

sys.path.insert(0, str(APP.parent / "ci"))
from readme_commands import commands

COMMANDS = commands(APP / "README.md")


def test_the_documents_commands_are_there():
    texts = [command.text for command in COMMANDS]
    for wanted in (
        "pip install -r requirements.txt",
        "python train_swin.py --cfg SWIN_TINY --data-path ./data/imagenet1k --output ./output/swin_tiny_224/",
        "python3 -m examples_utils benchmark --spec benchmarks.yml",
        "./swin_large_224_22k_finetune_1k_fp16_pod16.sh",
        "python -m pytest swin_test.py",
    ):
        assert wanted in texts
    assert any(text.startswith("python3 validate.py --cfg ") and " --checkpoint " in text for text in texts)
    assert all(command.skipped or command.text.split()[0] in {"python", "python3"} or "./" in command.text
               for command in COMMANDS)  # fmt: skip


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder of links to the app's files, so that data and output of the commands stay out of the app's folder."""
    folder = tmp_path_factory.mktemp("readme")
    for name in os.listdir(APP):
        if name not in {"data", "output", "tests", "__pycache__", "cachedir"}:
            (folder / name).symlink_to(APP / name)
    return folder


@pytest.mark.parametrize("command", [command for command in COMMANDS if not command.skipped], ids=lambda c: c.text)
def test_command(command, workplace):
    words = shlex.split(command.to_run)
    if words[0] in ("python", "python3"):
        done = forks().run(words[1:], workplace / "log.txt", folder=workplace)
        (workplace / "log.txt").unlink()
        assert done.status == 0, f"{command.to_run}\n{done.output}"
        return
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = dict(environment(), PATH=path)
    shell = ["bash", "-euc", command.to_run]
    done = subprocess.run(shell, cwd=workplace, env=variables, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, f"{command.to_run}\n{done.stdout}\n{done.stderr}"
