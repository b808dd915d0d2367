from __future__ import annotations

import io
import json
import tarfile

import pytest

from common.imagenet import check, require

NAMES = ("n00000001", "n00000002", "n00000003")
IMAGES = [f"ILSVRC2012_val_{k:08d}.JPEG" for k in range(1, 5)]
LABELS = "n00000003\nn00000001\nn00000002\nn00000001\n"
TRUTH = "ILSVRC2012_validation_ground_truth.txt"


@pytest.fixture
def flat(folder):
    folder.classes("train", NAMES)
    folder.touch(*(f"validation/{name}" for name in IMAGES))
    return folder


def sentences(verdict):
    return [str(problem) for problem in verdict.problems]


def devkit(text):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        entry = tarfile.TarInfo(f"ILSVRC2012_devkit_t12/data/{TRUTH}")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text.encode()))
    return out.getvalue()


@pytest.mark.parametrize("name", ["synset_labels.txt", "imagenet_2012_validation_synset_labels.txt"])
def test_flat_validation_with_synset_labels(flat, name):
    flat.write(name, LABELS)
    verdict = check(flat.root)
    assert (verdict.layout, verdict.problems) == ("flat", ())
    assert verdict.counts == {"train": 6, "validation": 4}
    assert verdict.classes == NAMES
    assert require(flat.root, "flat", "validation").classes == ()


def test_flat_validation_without_labels(flat):
    validation = flat.root / "validation"
    assert sentences(check(flat.root)) == [
        f"{validation} has 4 images in no class folders and no labels beside it: add synset_labels.txt or "
        f"ILSVRC2012_devkit_t12.tar.gz to {flat.root}, or sort the images into class folders."
    ]
    assert sentences(check(flat.root, "folders")) == [
        f"{validation} has 4 images but no class folders: move each image into a folder named by its class, "
        "as the devkit's or LOC_val_solution.csv's labels say."
    ]


def test_half_sorted_validation(flat):
    flat.write("synset_labels.txt", LABELS)
    flat.classes("validation", NAMES, 1)
    assert sentences(check(flat.root, "flat")) == [
        f"4 images in {flat.root}/validation outside any class folder, first {IMAGES[0]}: "
        "move each into the folder of its class."
    ]


def test_sorted_validation_is_as_good_where_flat_is_expected(folder):
    assert require(folder.good(NAMES), "flat").ok


@pytest.mark.parametrize("where", ["", "data/", "devkit/data/", "ILSVRC2012_devkit_t12/data/"])
def test_devkit_labels_need_their_class_table(flat, where):
    flat.write(f"{where}{TRUTH}", "3\n1\n2\n1\n")
    path = flat.root / f"{where}{TRUTH}"
    assert sentences(check(flat.root)) == [
        f"{path} numbers classes in the devkit's own order, and {path.parent} lacks meta.mat, which names them: "
        "copy meta.mat from ILSVRC2012_devkit_t12.tar.gz to it."
    ]
    flat.touch(f"{where}meta.mat")
    assert require(flat.root, "flat").ok


def test_devkit_archive(flat):
    flat.write("ILSVRC2012_devkit_t12.tar.gz", devkit("3\n1\n2\n1\n"))
    assert require(flat.root, "flat").ok
    flat.write("ILSVRC2012_devkit_t12.tar.gz", devkit("3\n1\nn2\n1\n"))
    assert sentences(check(flat.root)) == [
        f"{flat.root}/ILSVRC2012_devkit_t12.tar.gz does not give one class number per line: fetch the devkit again."
    ]
    flat.write("ILSVRC2012_devkit_t12.tar.gz", devkit("3\n1\n2\n1\n")[:60])
    assert "has 0 labels for the 4 images of" in sentences(check(flat.root))[0]


def test_too_few_labels_and_unknown_classes(flat):
    flat.write("synset_labels.txt", "n00000003\nn00000009\nn00000002\n")
    path = flat.root / "synset_labels.txt"
    assert sentences(check(flat.root)) == [
        f"{path} has 3 labels for the 4 images of {flat.root}/validation: unpack the validation archive and its "
        "labels again.",
        f"{path} names 1 class that the train folder lacks, first n00000009: unpack the training archive completely.",
    ]


def test_gap_in_the_validation_images(flat):
    flat.write("synset_labels.txt", LABELS)
    (flat.root / "validation" / IMAGES[1]).unlink()
    flat.touch("validation/ILSVRC2012_val_00000005.JPEG")
    assert sentences(check(flat.root)) == [
        f"{flat.root}/validation lacks validation image 2: unpack the validation archive again."
    ]


@pytest.fixture
def kaggle(folder):
    folder.classes("ILSVRC/Data/CLS-LOC/train", NAMES)
    folder.touch(*(f"ILSVRC/Data/CLS-LOC/val/{name}" for name in IMAGES))
    rows = [f"{name[:-5]},{label} 85 1 499 272 {label} 1 2 3 4 " for name, label in zip(IMAGES, LABELS.split())]
    folder.write("LOC_val_solution.csv", "\n".join(["ImageId,PredictionString", *reversed(rows)]))
    folder.write("LOC_synset_mapping.txt", "".join(f"{name} a thing, another\n" for name in NAMES))
    return folder


def test_kaggle_tree(kaggle):
    base = kaggle.root / "ILSVRC/Data/CLS-LOC"
    verdict = check(kaggle.root)
    assert (verdict.layout, verdict.problems, verdict.notes) == ("kaggle", (), ())
    assert verdict.splits == {"train": base / "train", "validation": base / "val"}
    assert verdict.counts == {"train": 6, "validation": 4}
    assert check(base).layout == "flat"  # its labels are found three levels up
    assert check(base).ok
    assert require(base, split="train").classes == NAMES


def test_kaggle_tree_where_class_folders_are_expected(kaggle):
    assert sentences(check(kaggle.root, "folders")) == [
        f"{kaggle.root} has Kaggle's tree where class folders below train and validation are expected: "
        "pass ILSVRC/Data/CLS-LOC in it, with val sorted into class folders by LOC_val_solution.csv."
    ]
    assert sentences(check(kaggle.root / "ILSVRC")) == [
        f"{kaggle.root}/ILSVRC has no train folder: {kaggle.root}/ILSVRC/Data/CLS-LOC has one, pass that path instead."
    ]


def test_kaggle_labels_missing(kaggle):
    text = (kaggle.root / "LOC_val_solution.csv").read_text()
    kaggle.write("LOC_val_solution.csv", "\n".join(text.splitlines()[:-1]).replace("n00000002", "n00000008"))
    path = kaggle.root / "LOC_val_solution.csv"
    assert sentences(check(kaggle.root)) == [
        f"{path} has no label for 1 image, first {IMAGES[0]}: fetch LOC_val_solution.csv again.",
        f"{path} names 1 class that the train folder lacks, first n00000008: unpack the training archive completely.",
    ]
    path.unlink()
    assert "no labels beside it" in sentences(check(kaggle.root))[0]


INDEXES = {
    "imagenet_class_index.json": lambda names: json.dumps({str(k): [name, "thing"] for k, name in enumerate(names)}),
    "class_to_idx.json": lambda names: json.dumps({name: k for k, name in enumerate(names)}),
    "class_index.json": lambda names: json.dumps(list(names)),
    "synset_words.txt": lambda names: "".join(f"{name} a thing, another\n" for name in names),
}


@pytest.mark.parametrize("name", INDEXES)
def test_class_index_in_another_order(folder, name):
    root = folder.good(NAMES)
    folder.write(name, INDEXES[name](NAMES))
    assert require(root).notes == ()
    folder.write(name, INDEXES[name]([NAMES[0], NAMES[2], NAMES[1]]))
    assert sentences(check(root)) == [
        f"{root}/{name} gives n00000003 the number that alphabetical folder order gives n00000002: "
        "sort it by folder name, or rename the folders so that both orders agree."
    ]
    folder.write(name, INDEXES[name](["cat", "dog"]))
    assert [note.what for note in require(root).notes] == [f"{root}/{name} lists other classes than the folders"]


@pytest.mark.parametrize("text", ["{", "3", '{"a": "b"}', '{"0": []}'])
def test_class_index_that_cannot_be_read(folder, text):
    root = folder.good(NAMES)
    folder.write("class_index.json", text)
    (sentence,) = sentences(check(root))
    assert sentence.startswith(f"{root}/class_index.json cannot be read as a class list (")
    assert sentence.endswith("): mend or remove it.")
