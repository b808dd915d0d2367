from __future__ import annotations

import re


def test_good_folder(folder, cli):
    root = folder.good()
    result = cli("check", root)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        f"{root}: class folders below train and validation",
        f"  train: 6 images in {root}/train",
        f"  validation: 3 images in {root}/validation",
        "  3 classes: n01440764 to n02105855",
        "ok",
    ]


def test_problems_and_notes(folder, cli):
    root = folder.good()
    folder.touch("train/a.JPEG", "train/readme.txt")
    (root / "validation/n01440764/n01440764_0.JPEG").unlink()
    result = cli("check", root)
    assert (result.returncode, result.stderr) == (1, "")
    assert result.stdout.splitlines()[4:] == [
        f"note: {root}/train has 1 file that no app reads, first readme.txt: they may be removed.",
        f"problem: 1 image in {root}/train outside any class folder, first a.JPEG: "
        "move each into the folder of its class.",
        f"problem: {root}/validation has 1 class folder without an image, first n01440764: "
        "fill it or remove it from every split.",
        "2 problems",
    ]


def test_missing_path(tmp_path, cli):
    result = cli("check", tmp_path / "no")
    assert (result.returncode, result.stderr) == (1, "")
    assert result.stdout.splitlines()[1].startswith(f"problem: {tmp_path}/no does not exist: correct the path, or ")


def test_layout_and_full(folder, cli):
    root = folder.good()
    assert cli("check", root, "--layout", "folders").returncode == 0
    result = cli("check", root, "--layout", "cifar10")
    assert (result.returncode, result.stdout.count("problem: ")) == (1, 1)
    result = cli("check", root, "--full")
    assert result.returncode == 1
    assert "not ImageNet-1k's 1,281,167" in result.stdout


def test_usage(cli, tmp_path):
    lines = ["", "check", "chekc x", "check x --layout zip", "check x --workers 0", "sample x --size big",
             "sample x --format zip", "sample x --seed -1", "sample x --seed 4294967296"]  # fmt: skip
    for arguments in map(str.split, lines):
        result = cli(*arguments)
        assert (result.returncode, result.stdout) == (2, ""), arguments
        assert "usage: python -m common.imagenet" in result.stderr


def test_a_sample_that_cannot_be_written_is_one_sentence(cli, tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "digits", "/proc/digits"):  # not even root writes there
        result = cli("sample", place)
        assert (result.returncode, result.stdout) == (1, "")
        assert re.fullmatch(rf"{place} cannot be written \(.+\): choose another folder, or .+\.\n", result.stderr)


def test_sample_then_check(cli, tmp_path):
    root = tmp_path / "data"
    result = cli("sample", root, "--format", "all", "--size", "8", "--seed", "3")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [f"{root}/imagenet1k", f"{root}/cifar10", f"{root}/archives"]
    for name in ("imagenet1k", "cifar10", "archives"):
        result = cli("check", root / name)
        assert (result.returncode, result.stderr) == (0, ""), name
    result = cli("check", root)
    assert f"{root}/imagenet1k has one, pass that path instead" in result.stdout
    result = cli("sample", root / "cifar10", "--format", "cifar10", "--size", "16")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"{root}/cifar10 holds a sample made with other settings: choose another folder, or remove it.\n"
    )
