"""Every command of the README, run on small data as a newcomer would from this folder."""

import os
import re
import sys
from pathlib import Path

import pytest

from tests.forked_runs import run_all
from tests.scripts import APP, environment

sys.path.insert(0, str(APP.parent / "ci"))
from readme_commands import commands

COMMANDS = commands(APP / "README.md")
RUN = [command for command in COMMANDS if not command.skipped]


def test_the_documents_commands_are_there():
    texts = [command.text for command in COMMANDS]
    for wanted in (
        "pip3 install -r requirements.txt",
        "cd remap && make clean && make && cd ..",
        "bash scripts/mae_base_pod16.sh",
        "bash scripts/mae_base_pod64.sh -n host1,host2,host3,host4 -s host0 -p partition_name -c cluster_name",
        "python main_finetune.py --finetune checkpoint_mae_vit_base --data_path data/imagenet1k",
        "python finetune_validate.py --resume checkpoint_mae_vit_base_finetune --batch_size 16"
        " --data_path data/imagenet1k",
    ):
        assert wanted in texts


def test_links_and_pictures_are_there():
    for target in re.findall(r"\]\(([^)#]+?)\)", (APP / "README.md").read_text()):
        if "://" not in target:
            assert (APP / target).exists(), target
    assert (APP / "../docs/mae_reconstructions.png").stat().st_size < 150_000


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Logs and exit statuses of all commands, run in order in a folder of links to the app's files."""
    folder = tmp_path_factory.mktemp("readme")
    app = folder / "mae_pytorch_ipu"
    (app / "scripts").mkdir(parents=True)
    for name in os.listdir(APP):
        if name not in {"data", "output", "tests", "scripts", "__pycache__"} and not name.startswith("checkpoint_"):
            (app / name).symlink_to(APP / name)
    for path in (APP / "scripts").glob("*.sh"):
        (app / "scripts" / path.name).write_text(path.read_text())
    jobs = []
    for index, command in enumerate(RUN):
        jobs.append({"name": str(index), "line": command.to_run, "cwd": str(app), "log": str(folder / f"{index}.log")})
        if " sample " in command.text:  # a fifth of the images is enough
            jobs.append({**jobs[-1], "name": "fewer", "line": "find data/digits -name '*[1-46-9].JPEG' -delete"})
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return folder, run_all(jobs, folder, dict(environment(), PATH=path))


@pytest.mark.parametrize("index", range(len(RUN)), ids=[command.text for command in RUN])
def test_command(index, finished):
    folder, statuses = finished
    assert statuses[str(index)] == 0, f"{RUN[index].to_run}\n{(folder / f'{index}.log').read_text()}"
