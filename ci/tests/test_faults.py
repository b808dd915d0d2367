"""The harness of faults: its short version finds nothing lost in the apps, and it finds what is broken on purpose."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ci.faults import __main__ as faults
from ci.faults.apps import APPS, KERAS, VIT
from ci.faults.bench import Figure
from ci.faults.processes import Finished

ROOT = Path(__file__).resolve().parents[2]


def short(root, *arguments):
    """Status, output and figures of the harness in `root`."""
    report = Path(os.environ["PYTEST_TMP"]) / "figures.json"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "ci.faults", "--short", "--json", str(report), *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=550)
    figures = json.loads(report.read_text())["figures"] if report.exists() else []
    return done, {(row["app"], row["fault"]): row for row in figures}


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTEST_TMP", str(tmp_path))
    memory = Path("/dev/shm")  # kills lose nothing that was written, so memory serves as a disk; a container's is small
    if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 4 << 30:
        monkeypatch.setenv("TMPDIR", "/dev/shm")


def test_nothing_is_lost_in_any_app():
    done, figures = short(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {app for app, _ in figures} == set(APPS)
    assert not [row for row in figures.values() if row["lost"]]
    assert figures[VIT, "SIGKILL, resumed"]["tried"] == 2
    assert figures[VIT, "bits of the resumed run that differ"]["measure"] == 0
    assert figures[KERAS, "bit flips of checkpoint files found"]["tried"] >= 40
    assert figures[VIT, "corrupt images handled"]["tried"] == 22
    assert figures[VIT, "disk full: one sentence, then resumed"]["tried"] >= 1
    assert "0 bits" in done.stdout


BROKEN = {
    "run/manifest.py": ("digest(path) != expected", "False"),
    "run/folder.py": ("fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass"),
    "run/images.py": ("self.record(name(candidate), reasons[-1])", "pass"),
    "ipu/poptorch_options.py": ("enableFloatingPointExceptions(True)", "enableFloatingPointExceptions(False)"),
    "ipu/state.py": ('executor.rng_state = mine["device"]', "pass"),
}


def test_what_is_broken_in_an_app_is_reported(tmp_path):
    root = tmp_path / "copy"
    for name in ("ci/faults", VIT):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("output", "data", "__pycache__"))
    (root / ".venv").symlink_to(ROOT / ".venv")
    for name, (honest, wrong) in BROKEN.items():
        path = root / VIT / name
        assert path.read_text().count(honest) == 1, f"{name} has changed: break it in another way"
        path.write_text(path.read_text().replace(honest, wrong))
    done, figures = short(root, "--apps", VIT, "--only", "damage", "second", "images", "nan", "kill")
    assert done.returncode == 1, done.stderr
    lost = {fault for (_, fault), row in figures.items() if row["lost"]}
    assert {
        "bit flips of checkpoint files found",
        "second process on a run folder refused",
        "corrupt images handled",
        "NaN caught before the update",
        "SIGKILL, resumed",
    } <= lost, done.stdout + done.stderr
    assert figures[VIT, "bits of the resumed run that differ"]["measure"] > 0
    assert figures[VIT, "cut checkpoint files found"]["lost"] == []  # the sizes are still compared
    assert done.stderr.count("lost: vit_pytorch_ipu") >= len(lost)


def test_a_table_counts_what_was_lost():
    rows = [
        {"app": VIT, **vars(Figure("flips", tried=3, lost=["one"]))},
        {"app": KERAS, **vars(Figure("flips", tried=2))},
        {"app": KERAS, **vars(Figure("growth", tried=1, measure=1.5, unit="MiB"))},
    ]
    lines = [line.split() for line in faults.table(rows).splitlines()]
    assert lines == [
        ["vit_ipu", "vit_keras_gaudi", "all"],
        ["flips", "2/3", "2/2", "4/5"],
        ["growth", "–", "1.5", "MiB", "1.5", "MiB"],
    ]


@pytest.mark.parametrize(
    ("status", "error", "fine"),
    [
        (1, "error: the disk is full: free some\n", True),
        (2, "[rank 1] error: no such flag\n", True),
        (0, "error: the disk is full: free some\n", False),
        (None, "error: the disk is full: free some\n", False),
        (1, "", False),
        (1, "error: one\nerror: two\n", False),
        (1, "Traceback (most recent call last):\n  …\nerror: x\n", False),
        (1, "error: IndexError: 3 (run again with --debug to see where)\n", False),
    ],
)
def test_what_counts_as_one_sentence(status, error, fine):
    assert bool(Finished(status, "", error).sentence) == fine
