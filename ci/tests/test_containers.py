"""The Dockerfile, what it copies and the dev container, as far as they can be checked without a Docker engine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.test_ci import environments, readme_commands

ROOT = Path(__file__).resolve().parent.parent.parent
DOCKERFILE = ROOT / "docker" / "Dockerfile"


def stages():
    """Target → its parent and its instructions, in order."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            parent, _, name = rest.split()
            found[name] = (parent, [])
        elif line:
            found[name][1].append((word, " ".join(rest.split())))
    return found


def instructions(target):
    """All instructions of a target, those of its parents first."""
    parent, own = stages()[target]
    return [*(instructions(parent) if parent in stages() else []), *own]


def sources(arguments):
    return [word for word in arguments.split() if not word.startswith("--")][:-1]


def ignored(path):
    """Whether .dockerignore leaves a file out: a pattern stands for a path from the root, with ** for any folders."""
    for pattern in (ROOT / ".dockerignore").read_text().splitlines():
        expression = re.escape(pattern).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if pattern and not pattern.startswith("#") and re.fullmatch(expression + "(/.*)?", path):
            return True
    return False


def copied_before(target, command):
    """Files and folders of the repository that are there when a target runs the command."""
    found = []
    for word, arguments in instructions(target):
        if word == "RUN" and command in arguments:
            return found
        if word == "COPY":
            found += sources(arguments)
    raise AssertionError(f"{target} does not run {command}")


def test_hadolint_finds_nothing():
    tool = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([tool, "--no-color", DOCKERFILE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_is_copied_is_there_and_not_left_out():
    copied = [
        source for _, own in stages().values() for word, rest in own if word == "COPY" for source in sources(rest)
    ]
    assert len(copied) > 10
    for source in copied:
        assert (ROOT / source).exists(), source
        assert not ignored(source), source


@pytest.mark.parametrize("target", ["torch", "tensorflow"])
def test_the_setup_finds_all_that_it_reads(target):
    """Its own files, and what the requirement files install from where it lies."""
    there = copied_before(target, f"python ci/environments.py {target}")
    requirements = environments.REQUIREMENTS[target]
    needed = ["ci/environments.py", *requirements, *environments.PROJECTS]
    for name in requirements:
        for place in re.findall(r"^-e (\S+)", (ROOT / name).read_text(), re.MULTILINE):
            project = (ROOT / name).parent / place
            assert (project / "pyproject.toml").is_file()
            packages = ["common"] if project.resolve() == ROOT else ["poptorch_host/src"]
            needed += [f"{package}" for package in packages]
    for name in needed:
        assert any(name == source or name.startswith(f"{source}/") for source in there), name


def test_the_build_gets_what_git_knows_and_no_more():
    if shutil.which("git") is None:
        pytest.skip("no git on PATH")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip(f"not a clone that git reads: {listed.stderr.strip()}")
    tracked = listed.stdout.splitlines()
    assert len(tracked) > 500
    assert [path for path in tracked if ignored(path)] == []
    for path in (
        ".git/HEAD",
        ".venv/torch/bin/python",
        "vit_pytorch_ipu/data/digits/a.png",
        "common/__pycache__/a.pyc",
    ):
        assert ignored(path), path
    for path in ("swin_pytorch_ipu/output/run/curves.png", "a.egg-info/PKG-INFO", "remap_custom_op/build/x.so"):
        assert ignored(path), path


def test_versions_are_those_of_the_requirements():
    text = DOCKERFILE.read_text()
    assert f"FROM python:{sys.version_info[0]}.{sys.version_info[1]}-slim AS base" in text
    pinned = re.search(r"^tensorflow-cpu==(\S+)$", (ROOT / "vit_tensorflow_gaudi/requirements.txt").read_text(), re.M)
    assert re.findall(r"tensorflow\[and-cuda\]==([\d.]+)", text) == [pinned[1]]


def test_the_interpreters_on_path_are_those_of_the_environments():
    for target in ("torch", "tensorflow", "tensorflow-gpu"):
        (path,) = [rest for word, rest in instructions(target) if word == "ENV" and rest.startswith("PATH=")]
        assert path == f"PATH=/apps/.venv/{target.split('-')[0]}/bin:$PATH"
        folder, user = (dict(instructions(target))[word] for word in ("WORKDIR", "USER"))
        assert (folder, user) == ("/apps", "1000")
        assert any(word == "ENV" and "USER=app" in rest.split() for word, rest in instructions(target))


def test_the_dev_container():
    place = ROOT / ".devcontainer"
    content = json.loads((place / "devcontainer.json").read_text())
    known = {"name", "build", "hostRequirements", "runArgs", "remoteUser", "postCreateCommand", "customizations"}
    assert set(content) <= known
    build = content["build"]
    assert (place / build["dockerfile"]).resolve() == DOCKERFILE
    assert (place / build["context"]).resolve() == ROOT
    assert build["target"] in stages()
    installed = " ".join(rest for word, rest in instructions(build["target"]) if word == "RUN")
    assert f"useradd --create-home --uid 1000 {content['remoteUser']}" in installed
    assert {"g++", "make", "git"} <= set(installed.split())
    make, target = content["postCreateCommand"].split()
    assert make == "make"
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)
    interpreter = content["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert interpreter == "${containerWorkspaceFolder}/.venv/torch/bin/python"


def test_the_commands_name_what_is_there():
    """No engine and no cluster here, so no command is run; each names targets, images and files that are there."""
    found = [
        command
        for page in ("docker/README.md", "examples/README.md")
        for command in readme_commands.commands(ROOT / page)
    ]
    assert len(found) >= 8
    assert all(command.skipped for command in found)
    images = set()
    for words in (command.text.split() for command in found):
        if words[:2] == ["docker", "build"]:
            assert (ROOT / words[words.index("--file") + 1]) == DOCKERFILE
            assert words[words.index("--target") + 1] in stages()
            images.add(words[words.index("--tag") + 1])
        elif words[:2] == ["docker", "run"]:
            assert images & set(words)
            if "--workdir" in words:
                folder = ROOT / words[words.index("--workdir") + 1].replace("/apps/", "")
                assert (folder / words[words.index("python") + 1]).is_file()
        elif words[0] == "sbatch":
            assert (ROOT / "vit_pytorch_ipu" / words[1]).is_file()
        elif words[:2] == ["kubectl", "create"]:
            assert (ROOT / words[-1]).is_file()
    jobs = "".join(path.read_text() for path in (ROOT / "examples" / "kubernetes").glob("*.yaml"))
    names = set(re.findall(r"image: (\S+?):latest", jobs))
    assert names
    assert names <= images
