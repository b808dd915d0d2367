"""Every command of docs and of the README of each part that has no such test of its own, run on small data."""

import importlib.util
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
APPS = ["vit_pytorch_ipu", "mae_pytorch_ipu", "swin_pytorch_ipu", "vit_pytorch_gaudi", "vit_tensorflow_gaudi"]
FRUGAL = {  # one core, no display, mpirun also as root and with more processes than cores
    "OMP_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}
START = {  # page → folder in which each of its blocks begins
    "README.md": ".",
    "docs/checkpoints.md": ".",
    "docs/moving_from_gaudi_tensorflow_to_gpu.md": "vit_tensorflow_gaudi",
    "docs/moving_from_ipu_to_gpu.md": "vit_pytorch_ipu",
}
WITH_OWN_TEST = {f"{app}/README.md" for app in APPS}
PARTS_THAT_SKIP = ("benchmarks", "docker", "examples", "poptorch_host", "remap_custom_op")  # and say why
SKIPPED = {f"{part}/README.md" for part in PARTS_THAT_SKIP}
# As in a newcomer's shell, but `cd` also takes the environment of the app.
SHELL = """
set -eu
cd() {
  builtin cd "$@"
  case $PWD in *tensorflow*) PATH=$ROOT/.venv/tensorflow/bin:$REST ;; *) PATH=$ROOT/.venv/torch/bin:$REST ;; esac
}
"""


def load_reader():
    spec = importlib.util.spec_from_file_location("ci_readme_commands", ROOT / "ci" / "readme_commands.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


READER = load_reader()


def test_the_pages_with_commands_are_known():
    pages = {str(page.relative_to(ROOT)) for folder in (".", "*") for page in ROOT.glob(f"{folder}/*.md")}
    assert {page for page in pages if READER.commands(ROOT / page)} == set(START) | WITH_OWN_TEST | SKIPPED
    assert all(command.skipped for page in SKIPPED for command in READER.commands(ROOT / page))
    assert all((ROOT / app / "tests" / "test_readme.py").is_file() for app in APPS)


def lay_out(top):
    """The apps as folders of links to their files, so that data, builds and output stay out of theirs."""
    for name in (".venv", "common", "poptorch_host", "remap_custom_op"):
        (top / name).symlink_to(ROOT / name)
    for app in APPS:
        (top / app).mkdir()
        for name in os.listdir(ROOT / app):
            if name not in {"data", "output", "tests", "__pycache__", "cachedir"}:
                (top / app / name).symlink_to(ROOT / app / name)


def script(page, top):
    """The page's commands in order, but those skipped; what a note adds goes to every line but `cd`."""
    lines = [SHELL]
    for block in READER.blocks(ROOT / page):
        lines.append(f"cd {shlex.quote(str(top / START[page]))}")
        for command in block:
            line = command.text if command.text.startswith("cd ") else command.to_run
            if not command.skipped:
                lines += [f"echo {shlex.quote('$ ' + line)}", line]
    return "\n".join(lines)


@pytest.mark.parametrize("page", START)
def test_the_commands_of_a_page_run(page, tmp_path):
    lay_out(tmp_path)
    done = subprocess.run(
        ["bash", "-c", script(page, tmp_path)],
        env=dict(os.environ, ROOT=str(ROOT), REST=os.environ["PATH"], **FRUGAL),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
