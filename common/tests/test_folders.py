from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import get_type_hints

import pytest

from common import folders, imagenet, listing
from common.imagenet import ImageNetLayoutError, check, require
from common.verdict import Verdict


def sentences(verdict):
    return [str(problem) for problem in verdict.problems]


@pytest.mark.parametrize("validation", ["validation", "val"])
def test_good_tree(folder, validation):
    root = folder.good(validation=validation)
    verdict = check(root)
    assert verdict == require(root)
    assert (verdict.ok, verdict.layout, verdict.problems, verdict.notes) == (True, "folders", (), ())
    assert verdict.splits == {"train": root / "train", "validation": root / validation}
    assert verdict.classes == ("n01440764", "n01443537", "n02105855")
    assert verdict.counts == {"train": 6, "validation": 3}


def test_entries_beside_the_splits_are_none_of_our_business(folder):
    root = folder.good()
    folder.touch("imagenet_2012_bounding_boxes.csv", "bounding_boxes/a.xml", "README")
    assert require(root).notes == ()


def test_verdict_type_hints_can_be_evaluated():
    assert get_type_hints(Verdict)["splits"]
    assert get_type_hints(listing.Listing)["images"]


def test_empty_split(folder):
    folder.classes("train")
    (folder.root / "validation").mkdir()
    assert sentences(check(folder.root)) == [f"{folder.root}/validation is empty: put one folder per class there."]


def test_classes_one_level_too_deep(folder):
    folder.classes("train/train")
    folder.classes("validation")
    assert sentences(check(folder.root))[0] == (
        f"the class folders of {folder.root}/train lie one level too deep, in {folder.root}/train/train: "
        f"move them up into {folder.root}/train."
    )


def test_images_in_a_subfolder_of_their_class_count(folder):
    folder.touch(*(f"{split}/n0000000{k}/images/a.JPEG" for split in ("train", "val") for k in (1, 2)))
    assert require(folder.root).counts == {"train": 2, "validation": 2}


def test_empty_classes(folder):
    folder.good()
    (folder.root / "train" / "n09999999").mkdir()
    folder.touch("validation/n09999999/thumbs.db")
    assert sentences(check(folder.root)) == [
        f"{folder.root}/{split} has 1 class folder without an image, first n09999999: "
        "fill it or remove it from every split." for split in ("train", "validation")
    ]  # fmt: skip


def test_class_mismatch(folder):
    folder.classes("train", ["n00000001", "n00000002", "n00000003"])
    folder.classes("validation", ["n00000002", "n00000004"])
    train, validation = folder.root / "train", folder.root / "validation"
    assert sentences(check(folder.root)) == [
        f"1 class of {validation} missing from {train}, first n00000004: give both splits the same class folders.",
        f"2 classes of {train} missing from {validation}, first n00000001: give both splits the same class folders.",
    ]


def test_dangling_links(folder):
    root = folder.good()
    (root / "train/n01440764/x.JPEG").symlink_to("/nonexistent/x.JPEG")
    (root / "train/n0_gone").symlink_to("/nonexistent")
    (root / "validation/n01440764/circle").symlink_to("circle")
    assert sentences(check(root)) == [
        f"{root}/train has 2 dangling links, first n01440764/x.JPEG: mend or remove what leads nowhere.",
        f"{root}/validation has 1 dangling link, first n01440764/circle: mend or remove what leads nowhere.",
    ]


def test_links_that_lead_somewhere_are_followed(folder, tmp_path):
    root = folder.good()
    (tmp_path / "linked").symlink_to(root / "train")
    outer = tmp_path / "outer"
    outer.mkdir()
    for split in ("train", "validation"):
        (outer / split).symlink_to(root / split)
    assert require(outer).counts == {"train": 6, "validation": 3}


def test_folder_linked_into_itself_ends(folder):
    root = folder.good()
    (root / "train/n01440764/self").symlink_to(".")
    assert check(root).counts["train"] == 6 + 2 * listing.DEPTH_IN_CLASS


def test_stray_files_are_noted_and_stray_images_are_problems(folder):
    root = folder.good()
    folder.touch("train/n01440764.tar", "train/LICENSE", "train/n01440764/notes.txt")
    verdict = require(root)
    assert [str(note) for note in verdict.notes] == [
        f"{root}/train has 3 files that no app reads, first LICENSE: they may be removed."
    ]
    assert verdict.counts["train"] == 6
    folder.touch("train/b.png", "train/a.jpg")
    assert sentences(check(root)) == [
        f"2 images in {root}/train outside any class folder, first a.jpg: move each into the folder of its class."
    ]


def test_hidden_files_named_like_images(folder):
    root = folder.good()
    folder.touch("train/n01440764/._a.JPEG", "train/n01443537/._a.JPEG")
    assert sentences(check(root)) == [
        f"{root}/train has 2 hidden files that would be read as images, first n01440764/._a.JPEG: "
        "remove what is hidden."
    ]


def test_archives_not_unpacked(folder):
    folder.touch("train/n01440764.tar", "train/n01443537.tar")
    folder.classes("validation")
    assert sentences(check(folder.root)) == [
        f"{folder.root}/train has 2 class archives that nobody has unpacked, first n01440764.tar: "
        "unpack each into a folder named like it, without .tar."
    ]


def test_folder_that_is_no_class(folder):
    folder.good()
    folder.touch("train/.ipynb_checkpoints/a.JPEG", "validation/.ipynb_checkpoints/a.JPEG")
    assert (
        f"{folder.root}/train mixes WordNet synsets with other folder names, first .ipynb_checkpoints: "
        in (sentences(check(folder.root))[0])
    )


def test_hidden_folder_among_plain_names(folder):
    folder.good(("cat", "dog"))
    folder.touch("train/.cache/a.JPEG", "validation/.cache/a.JPEG")
    assert sentences(check(folder.root))[0] == f"{folder.root}/train/.cache would count as a class: remove it."


@pytest.mark.parametrize("prefix", ["", "class_"])
def test_alphabetical_order_that_is_not_numeric(folder, prefix):
    folder.good([f"{prefix}{k}" for k in range(11)])
    assert sentences(check(folder.root))[0] == (
        f"class {prefix}2 comes after {prefix}10 in the alphabetical folder order of {folder.root}/train: "
        "pad the numbers with zeros, because class numbers follow that order."
    )


@pytest.mark.parametrize("names", [[f"{k:02d}" for k in range(11)], [f"digit_{k}" for k in range(10)],
                                   ["boeing_737", "airbus_1000", "airbus_320"], ["cat", "dog"]])  # fmt: skip
def test_orders_that_are_fine(folder, names):
    assert require(folder.good(names)).classes == tuple(sorted(names))


def test_full_insists_on_imagenet(folder):
    root = folder.good()
    assert sentences(check(root, full=True)) == [
        f"{root} does not have the 1000 classes of ImageNet-1k but 3 classes: fetch ILSVRC 2012 anew "
        "or check without --full.",
        f"{root}/train has 6 images, not ImageNet-1k's 1,281,167 (fewest in n01440764: 2): unpack its archive again.",
        f"{root}/validation has 3 images, not ImageNet-1k's 50,000 (fewest in n01440764: 1): unpack its archive again.",
    ]


@pytest.fixture(scope="module")
def imagenet_tree(tmp_path_factory):
    """The 1000 synsets of ILSVRC 2012, in the order of timm's list, with one image each."""
    (timm,) = find_spec("timm").submodule_search_locations  # importing it would take long
    synsets = Path(timm, "data/_info/imagenet_synsets.txt").read_text().split()
    root = tmp_path_factory.mktemp("imagenet")
    for split in ("train", "val"):
        for name in synsets:
            (root / split / name).mkdir(parents=True)
            (root / split / name / "a.JPEG").touch()
    return root, synsets


def test_imagenet_itself(imagenet_tree, monkeypatch):
    root, synsets = imagenet_tree
    assert check(root).classes == tuple(synsets)
    assert [note.remedy for note in check(root).notes] == ["unpack its archive again"] * 2  # 1000 images are too few
    monkeypatch.setattr(folders, "IMAGENET_COUNTS", {"train": 1000, "validation": 1000})
    assert check(root, full=True).problems == check(root, full=True).notes == ()


def test_unreadable_folder_is_a_problem(folder, monkeypatch):
    root = folder.good()

    def refuse(path):
        if str(path).endswith("train/n01443537"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", refuse)
    assert sentences(check(root)) == [
        f"{root}/train/n01443537 cannot be read (Permission denied): give yourself read permission."
    ]


def test_several_problems_name_the_first_and_the_command(folder):
    root = folder.good()
    folder.touch("train/a.JPEG", "validation/a.JPEG")
    with pytest.raises(ImageNetLayoutError) as caught:
        require(root)
    assert str(caught.value) == (
        f"1 image in {root}/train outside any class folder, first a.JPEG: move each into the folder of its class "
        f"(and 1 more: python -m common.imagenet check {root})."
    )


def test_wrong_arguments_are_refused(folder):
    with pytest.raises(ValueError, match="layout 'imagenet' must be one of"):
        check(folder.root, "imagenet")
    with pytest.raises(ValueError, match="splits"):
        check(folder.root, splits=["val"])
    assert set(imagenet._TO_OTHER) | {"folders", "auto"} == set(imagenet.LAYOUTS)
