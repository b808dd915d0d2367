"""setup.sh: what it installs, and a real installation from a folder of wheels without a network, twice."""

import os
import shlex
import sys
import zipfile
from importlib.metadata import version

import pytest

from tests import stand_ins
from tests.scripts import APP
from tests.stand_ins import TOOLS, launch

SETUP = "setup.sh"
TORCH = [f"torch=={version('torch')}", f"torchvision=={version('torchvision')}"]


@pytest.fixture
def requirements(tmp_path):
    path = tmp_path / "requirements.txt"
    path.write_text("# beside torch\nfirst-tiny==1.0  # with a comment\n\n-e ..\nsecond>=2,<3\n")
    return path


def dry(*words, folder="/nowhere", **changes):
    done = launch(folder, SETUP, "--dry-run", *words, **changes)
    assert (done.returncode, done.stderr) == (0, "")
    return shlex.split(done.stdout)


def test_what_it_installs(requirements):
    """Nothing of the repository, which the hosts share, and the torch that is there."""
    words = dry("--requirements", requirements)
    assert words[:4] == ["python3", "-m", "pip", "install"]
    assert words[5:] == ["first-tiny==1.0", "second>=2,<3", *TORCH]


def test_wheels_keep_it_off_the_network(requirements, tmp_path):
    words = dry("--requirements", requirements, "--wheels", tmp_path)
    assert words[5:8] == ["--no-index", "--find-links", str(tmp_path)]


def test_wheels_beside_the_script_are_taken(tmp_path):
    (tmp_path / "app" / "wheels").mkdir(parents=True)
    for name in (SETUP, "scripts"):
        (tmp_path / "app" / name).symlink_to(APP / name)
    (tmp_path / "app" / "requirements-hpu.txt").write_text("tiny==1\n")
    done = launch("/nowhere", tmp_path / "app" / SETUP, "--dry-run")
    assert shlex.split(done.stdout)[5:] == ["--no-index", "--find-links", "wheels", "tiny==1", *TORCH]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("-x", "there is no option -x"),
        ("--wheels", "--wheels needs a value"),
        ("--requirements /nowhere", "/nowhere can't be read: check --requirements"),
        ("--requirements /dev/null --wheels /nowhere", "there is no folder /nowhere: check --wheels"),
    ],
)
def test_refused(words, says):
    done = launch("/nowhere", SETUP, *words.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_torch(requirements, tmp_path):
    stand_ins.shell(tmp_path / "bin", "python3", "true")
    done = launch(tmp_path / "bin", SETUP, "--requirements", requirements)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "setup.sh: torch is not installed: take Habana's image, elsewhere requirements.txt\n"


def test_a_failed_installation_is_a_failure(requirements, tmp_path):
    code = f'[[ $1 == -c ]] && exec {sys.executable} "$@"\necho "$*" >>{tmp_path}/calls\nexit 7'
    stand_ins.shell(tmp_path / "bin", "python3", code)
    assert launch(tmp_path / "bin", SETUP, "--requirements", requirements).returncode == 7
    assert len((tmp_path / "calls").read_text().splitlines()) == 1  # train.py is not tried


def wheel(folder, name):
    """A package of one module."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", "here = True\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


def test_an_installation_without_a_network_twice(tmp_path):
    """Into a folder of its own; the second time there is nothing to do, and torch is never touched."""
    wheel(tmp_path / "wheels", "tiny_wheel_of_a_test")
    (tmp_path / "requirements.txt").write_text("tiny-wheel-of-a-test==1.0\n-e ..\n")
    place = tmp_path / "prefix"
    site = place / "lib" / f"python3.{sys.version_info[1]}" / "site-packages"
    given = ["--requirements", tmp_path / "requirements.txt", "--wheels", tmp_path / "wheels"]
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    changes = {"PIP_PREFIX": str(place), "PYTHONPATH": path}
    first = launch(TOOLS, SETUP, *given, **changes)
    assert (first.returncode, first.stderr) == (0, "")
    assert "Successfully installed tiny" in first.stdout
    assert (site / "tiny_wheel_of_a_test.py").is_file()
    second = launch(TOOLS, SETUP, *given, **changes)
    assert (second.returncode, second.stderr) == (0, "")
    assert "installed tiny" not in second.stdout
    assert first.stdout.count("Requirement already satisfied: torch==") == 1
    (tmp_path / "requirements.txt").write_text("tiny-package-that-is-not-there\n")
    missing = launch(TOOLS, SETUP, *given, **changes)
    assert missing.returncode != 0
    assert "No matching distribution found for tiny-package-that-is-not-there" in missing.stderr
