import os
import pickle

import pytest
import torch
from PIL import Image

from dataset import DataSpec, create_dataset
from run.errors import UserError

COLOURS = {"apple": (200, 30, 40), "bird": (40, 90, 200), "cat": (90, 90, 90)}


def write_image(path, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 16), colour).save(path)


def make_tree(root, splits=("train", "validation"), classes=COLOURS):
    for split in splits:
        for name in classes:
            for file in ("b.png", "a.PNG"):
                write_image(root / split / name / file, COLOURS.get(name, (0, 0, 0)))
    return root


def spec(root, **changes):
    return DataSpec(**{"name": "folder", "path": str(root), "image_size": 8, "eval_resize": "direct", **changes})


def test_images_come_by_class_and_name_with_their_labels(tmp_path):
    data = create_dataset(spec(make_tree(tmp_path)), "validation")
    assert data.classes == ["apple", "bird", "cat"]
    names = [os.path.relpath(data.source.name(index), tmp_path / "validation") for index in range(len(data))]
    assert names == ["apple/a.PNG", "apple/b.png", "bird/a.PNG", "bird/b.png", "cat/a.PNG", "cat/b.png"]
    for index, (image, label) in enumerate(data):
        assert label.dtype == torch.int64
        assert label.shape == ()
        assert label == index // 2
        assert image.shape == (3, 8, 8)
        assert image[:, 4, 4].tolist() == list(COLOURS[data.classes[label]])


def test_other_files_are_ignored_and_deeper_images_found(tmp_path):
    make_tree(tmp_path)
    for name in ("labels.txt", "Thumbs.db"):
        (tmp_path / "train" / "bird" / name).write_text("no image")
    write_image(tmp_path / "train" / "bird" / "more" / "c.png", COLOURS["bird"])
    data = create_dataset(spec(tmp_path), "train")
    assert len(data) == 7
    assert data[4][0][:, 0, 0].tolist() == list(COLOURS["bird"])
    assert [int(label) for _, label in data] == [0, 0, 1, 1, 1, 2, 2]


def test_names_of_any_bytes_are_opened(tmp_path):
    make_tree(tmp_path)
    odd = os.path.join(os.fsencode(tmp_path), b"train", b"cat", b"caf\xe9 \xff.png")
    os.link(tmp_path / "train" / "cat" / "b.png", odd)
    data = create_dataset(spec(tmp_path), "train")
    assert os.fsencode(data.source.name(len(data) - 1)) == odd
    assert data[len(data) - 1][0][:, 0, 0].tolist() == list(COLOURS["cat"])


def test_val_is_accepted_for_validation(tmp_path):
    make_tree(tmp_path, splits=("train", "val"))
    data = create_dataset(spec(tmp_path), "validation")
    assert len(data) == 6
    assert data.source.name(0).startswith(str(tmp_path / "val"))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_one_split_may_be_alone(tmp_path, split):
    make_tree(tmp_path, splits=(split,))
    assert len(create_dataset(spec(tmp_path), split)) == 6
    other = "validation" if split == "train" else "train"
    with pytest.raises(UserError, match=f"no {other}"):
        create_dataset(spec(tmp_path), other)


def test_listing_is_never_cached(tmp_path):
    # The program this one replaces reused the list of another path, even of a missing one.
    make_tree(tmp_path / "one")
    make_tree(tmp_path / "two", classes=["apple", "bird"])
    assert len(create_dataset(spec(tmp_path / "one"), "train")) == 6
    assert len(create_dataset(spec(tmp_path / "two"), "train")) == 4
    write_image(tmp_path / "two" / "train" / "bird" / "new.png", (0, 0, 0))
    assert len(create_dataset(spec(tmp_path / "two"), "train")) == 5
    with pytest.raises(UserError, match="three does not exist"):
        create_dataset(spec(tmp_path / "three"), "train")


@pytest.mark.parametrize("split", ["train", "validation"])
def test_splits_must_have_the_same_classes(tmp_path, split):
    make_tree(tmp_path, splits=("train",))
    make_tree(tmp_path, splits=("validation",), classes=["apple", "cat", "dog"])
    with pytest.raises(UserError, match="same class folders"):
        create_dataset(spec(tmp_path), split)


def test_class_count_must_be_the_models(tmp_path):
    make_tree(tmp_path)
    assert len(create_dataset(spec(tmp_path, num_classes=3), "train").classes) == 3
    with pytest.raises(UserError, match=r"have 3 classes .* for 1000"):
        create_dataset(spec(tmp_path, name="imagenet1k", num_classes=1000), "train")


def test_empty_class_is_named(tmp_path):
    make_tree(tmp_path)
    (tmp_path / "train" / "dog").mkdir()
    (tmp_path / "validation" / "dog").mkdir()
    with pytest.raises(UserError, match=r"first dog.*: fill it"):
        create_dataset(spec(tmp_path), "train")


def test_wrong_level_names_the_right_one(tmp_path):
    make_tree(tmp_path / "data")
    with pytest.raises(UserError, match=r"pass its parent .*data\."):
        create_dataset(spec(tmp_path / "data" / "train"), "train")
    with pytest.raises(UserError, match=r"data has one, pass that path"):
        create_dataset(spec(tmp_path), "train")


def test_unsorted_images_are_explained(tmp_path):
    make_tree(tmp_path, splits=("train",))
    write_image(tmp_path / "validation" / "ILSVRC2012_val_00000001.png", (0, 0, 0))
    with pytest.raises(UserError, match="no class folders: move each image into a folder"):
        create_dataset(spec(tmp_path), "validation")


def test_a_worker_gets_names_of_few_bytes(tmp_path):
    for number in range(500):
        path = tmp_path / "train" / "one" / f"ILSVRC2012_{number:08d}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    data = create_dataset(spec(tmp_path), "train")
    assert len(pickle.dumps(data)) < 500 * 40 + 2000


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", "imagenet"), ("dtype", "int8"), ("eval_resize", "pad"), ("extra_aug", "randaugment"), ("image_size", 0),
     ("crop_scale_min", 0.0), ("crop_scale_min", 1.1), ("bad_image_ratio", -0.1), ("num_classes", 0), ("path", "")],
)  # fmt: skip
def test_impossible_options_are_refused_by_name(tmp_path, field, value):
    with pytest.raises(UserError, match=f"data option {field} is {value!r} and must be"):
        spec(tmp_path, **{field: value})
