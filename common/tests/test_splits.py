from __future__ import annotations

import pickle

import pytest

from common.imagenet import ImageNetLayoutError, check, require
from common.splits import other_split


def sentences(verdict):
    return [str(problem) for problem in verdict.problems]


def test_one_split_is_enough_when_asked_for(folder):
    folder.classes("validation")
    assert require(folder.root, split="validation").counts == {"validation": 6}
    with pytest.raises(ImageNetLayoutError, match=r"data has no train folder: put it beside .*/data/validation, one"):
        require(folder.root)


def test_other_splits_are_not_looked_at(folder):
    folder.good()
    folder.touch("train/stray.JPEG")
    assert require(folder.root, split="validation").ok
    assert not check(folder.root).ok


def test_missing_path(tmp_path):
    path = tmp_path / "nowhere"
    with pytest.raises(ImageNetLayoutError) as caught:
        require(path)
    assert str(caught.value) == (
        f"{path} does not exist: correct the path, or write sample data there with "
        f"python -m common.imagenet sample {path}."
    )
    assert isinstance(caught.value, ValueError)
    assert caught.value.verdict.path == path


def test_error_survives_the_way_between_processes(tmp_path):
    with pytest.raises(ImageNetLayoutError) as caught:
        require(tmp_path / "nowhere")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.verdict) == (str(caught.value), caught.value.verdict)


def test_link_to_nothing_and_file(tmp_path):
    (tmp_path / "link").symlink_to("gone")
    (tmp_path / "file").touch()
    assert sentences(check(tmp_path / "link")) == [
        f"{tmp_path}/link is a link to gone, which is not there: mend the link."
    ]
    assert sentences(check(tmp_path / "file")) == [
        f"{tmp_path}/file is a file, not a folder: pass the folder it belongs in, {tmp_path}."
    ]


def test_empty_folder(folder):
    assert sentences(check(folder.root)) == [
        f"{folder.root} has no train folder: put one folder per class into {folder.root}/train."
    ]


@pytest.mark.parametrize(("wrong", "right"), [("Train", "train"), ("training", "train"), ("valid", "validation"),
                                              ("Val", "validation"), ("test", "validation")])  # fmt: skip
def test_misnamed_split_is_named(folder, wrong, right):
    folder.classes(wrong)
    folder.classes(other_split(right))
    missing = "train" if right == "train" else "validation or val"
    assert sentences(check(folder.root)) == [
        f"{folder.root} has no {missing} folder, but {wrong}: rename {wrong} to {right}."
    ]


@pytest.mark.parametrize("inner", ["imagenet", "a/b/imagenet1k"])
def test_nested_layout_names_the_right_path(folder, inner):
    folder.classes(f"{inner}/train")
    folder.classes(f"{inner}/val")
    (sentence,) = sentences(check(folder.root))
    assert sentence == f"{folder.root} has no train folder: {folder.root}/{inner} has one, pass that path instead."
    assert require(folder.root / inner).ok


def test_path_of_a_split_instead_of_its_parent(folder):
    root = folder.good()
    assert sentences(check(root / "train")) == [
        f"{root}/train has no train folder, its subfolders are classes themselves: pass its parent {root}."
    ]


def test_class_folders_without_splits(folder):
    folder.classes(".")
    assert sentences(check(folder.root)) == [
        f"{folder.root} has no train folder, its subfolders are classes themselves: move them into {folder.root}/train."
    ]


def test_validation_and_val(folder):
    folder.good()
    folder.classes("val")
    assert sentences(check(folder.root)) == [
        f"{folder.root} has both validation and val: remove or rename the one that is not meant."
    ]


def test_val_linked_to_validation_is_fine(folder):
    (folder.good() / "val").symlink_to("validation")
    assert require(folder.root).ok


def test_dangling_split(folder):
    folder.classes("train")
    (folder.root / "val").symlink_to("/nonexistent")
    assert sentences(check(folder.root)) == [
        f"{folder.root}/val is a link to /nonexistent, which is not there: mend the link."
    ]
