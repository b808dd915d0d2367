import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CI = Path(__file__).resolve().parent.parent


def load(name):
    spec = importlib.util.spec_from_file_location("ci_" + name, CI / (name + ".py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


copies, environments, readme_commands = load("copies"), load("environments"), load("readme_commands")


@pytest.fixture
def two_apps(tmp_path):
    for app in ("vit_pytorch_ipu", "swin_pytorch_ipu"):
        (tmp_path / app / "run").mkdir(parents=True)
        (tmp_path / app / "run" / "a.py").write_text("A = 1\n")
    return tmp_path


def test_identical_copies_are_clean(two_apps):
    assert copies.differences(two_apps) == []


def test_a_byte_a_missing_and_an_extra_file_are_named_and_renewed(two_apps):
    (two_apps / "vit_pytorch_ipu" / "run" / "b.py").write_text("B = 1\n")
    (two_apps / "swin_pytorch_ipu" / "run" / "a.py").write_text("A = 2\n")
    (two_apps / "swin_pytorch_ipu" / "run" / "c.py").write_text("")
    found = " | ".join(copies.differences(two_apps))
    assert "swin_pytorch_ipu/run/b.py is missing" in found
    assert "swin_pytorch_ipu/run/c.py is not in vit_pytorch_ipu" in found
    assert "swin_pytorch_ipu/run/a.py differs" in found
    copies.renew(two_apps)
    assert copies.differences(two_apps) == []


def test_commands_are_read_with_their_notes(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(
        "text\n```bash\npython a.py  # comment\npython b.py \\\n    --x 1\n```\n"
        "<!-- test: --steps 2 -->\n```bash\npython c.py\n```\n"
        "<!-- test: skip needs an IPU -->\n```console\npython d.py\n```\n```python\nnot = 'a command'\n```\n"
    )
    found = readme_commands.commands(readme)
    assert [command.to_run for command in found] == [
        "python a.py",
        "python b.py --x 1",
        "python c.py --steps 2",
        "python d.py",
    ]
    assert [command.skipped for command in found] == ["", "", "", "needs an IPU"]


def test_a_changed_requirement_changes_the_digest(tmp_path, monkeypatch):
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    (tmp_path / "requirements.txt").write_text("torch==2.12.0\n")
    before = environments.digest(["requirements.txt"])
    assert environments.digest(["requirements.txt"]) == before
    (tmp_path / "requirements.txt").write_text("torch==2.12.1\n")
    assert environments.digest(["requirements.txt"]) != before


def test_an_environment_is_made_renewed_and_left_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    monkeypatch.setattr(environments, "REQUIREMENTS", {"small": ["requirements.txt"]})
    monkeypatch.setattr(environments, "PROJECTS", [])
    (tmp_path / "requirements.txt").write_text("# nothing\n")
    for content, made in [("# nothing\n", True), ("# nothing\n", False), ("# still nothing\n", True)]:
        (tmp_path / "requirements.txt").write_text(content)
        environments.make("small")
        assert ("setting up" in capsys.readouterr().out) == made
    python = tmp_path / ".venv" / "small" / "bin" / "python"
    assert environments.is_this_version(python)
    marker = tmp_path / ".venv" / "small" / "kept"
    marker.write_text("")
    (tmp_path / ".venv" / "small" / "stamp").unlink()
    environments.make("small")
    assert marker.exists()
    python.unlink()
    environments.make("small")
    assert not marker.exists()
    assert environments.is_this_version(python)


def test_another_python_is_refused_before_anything_is_made(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["environments", "torch"])
    monkeypatch.setattr(sys, "version_info", (3, 12, 1))
    monkeypatch.setattr(environments, "make", lambda name: pytest.fail("it was made"))
    with pytest.raises(SystemExit, match=r"this is Python 3\.12, .* need 3\.11: add PYTHON=python3\.11"):
        environments.main()


def test_the_driver_fails_when_a_test_fails(tmp_path):
    (tmp_path / "ci").mkdir()
    (tmp_path / "common" / "tests").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "ci" / "test.py").write_text((CI / "test.py").read_text())
    test = tmp_path / "common" / "tests" / "test_one.py"
    command = [sys.executable, str(tmp_path / "ci" / "test.py"), "common"]
    test.write_text("def test_passes():\n    assert True\n")
    good = subprocess.run(command, capture_output=True, text=True)
    assert good.returncode == 0
    assert "1 passed, 0 failed, 0 skipped" in good.stdout
    test.write_text("def test_fails():\n    assert False\n")
    bad = subprocess.run(command, capture_output=True, text=True)
    assert bad.returncode == 1
    assert "0 passed, 1 failed, 0 skipped" in bad.stdout
    test.write_text("import nothing_of_that_name\n")
    broken = subprocess.run(command, capture_output=True, text=True)
    assert broken.returncode == 1


def test_clean_leaves_data_sets_and_runs(tmp_path):
    shutil.copy(CI.parent / "Makefile", tmp_path)
    mine = [
        "vit_pytorch_ipu/data/imagenet1k/train/n01440764/a.JPEG",
        "vit_pytorch_ipu/data/__pycache__/a.JPEG",
        "vit_pytorch_ipu/output/b16_imagenet1k/checkpoints/step-100/manifest.json",
        "vit_tensorflow_gaudi/data/tf_records/train/train-00000-of-01024",
    ]
    made = [
        ".venv/torch/stamp",
        "demo/report.html",
        "vit_pytorch_ipu/.mypy_cache/a",
        "vit_pytorch_ipu/run/__pycache__/a.pyc",
        "vit_pytorch_ipu/data/digits/a",
        "vit_tensorflow_gaudi/data/digits_records/train/a",
        "vit_training_apps_common.egg-info/PKG-INFO",
    ]
    for name in [*mine, *made]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    variables = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    subprocess.run(["make", "clean"], cwd=tmp_path, env=variables, check=True, capture_output=True)
    assert [name for name in mine if not (tmp_path / name).exists()] == []
    assert [name for name in made if (tmp_path / name).exists()] == []
