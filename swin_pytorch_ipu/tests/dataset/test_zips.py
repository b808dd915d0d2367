import os
import pickle
import zipfile

import pytest
import torch
from torch.utils.data import DataLoader

from dataset.images import ImageDataset
from dataset.zips import ZipImages
from run.errors import UserError
from run.images import BadImageError
from tests.dataset.trees import picture, tree


def archive(folder, names, *, method=zipfile.ZIP_STORED, name="train", lines=None):
    """FOLDER/train.zip with a picture, of its own seed, under each name."""
    with zipfile.ZipFile(folder / f"{name}.zip", "w", method) as opened:
        for seed, inside in enumerate(names):
            opened.write(picture(folder / "pictures" / f"{seed}.png", seed=seed), inside)
    if lines is not None:
        (folder / f"{name}_map.txt").write_text("".join(f"{line}\n" for line in lines))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("around", ["", "train/", "imagenet/train/"])
def test_class_folders_in_an_archive(tmp_path, method, around):
    names = [f"{around}b/1.png", f"{around}a/2.png", f"{around}a/1.png", f"{around}a/.hidden.png", "LICENSE"]
    archive(tmp_path, names[: 5 if not around else 4], method=method)
    images = ZipImages.open(str(tmp_path), "train")
    assert images.classes == ["a", "b"]
    assert [images.name(index).split(":")[1] for index in range(len(images))] == [names[2], names[1], names[0]]
    assert [images.label(index) for index in range(3)] == [0, 0, 1]
    for index, seed in enumerate((2, 1, 0)):
        assert images.content(index) == (tmp_path / "pictures" / f"{seed}.png").read_bytes()
    assert images.image(0).shape == (3, 30, 40)


def test_a_map_numbers_the_images(tmp_path):
    archive(tmp_path, ["x/1.png", "y/1.png", "y/2.png"], name="val", lines=["y/1.png\t0", "x/1.png\t1", "y/2.png\t0"])
    images = ZipImages.open(str(tmp_path), "validation")
    assert images.classes == ["y", "x"]
    assert [(images.name(i).split(":")[1], images.label(i)) for i in range(3)] == [
        ("y/1.png", 0),
        ("y/2.png", 0),
        ("x/1.png", 1),
    ]


def test_a_flat_map_takes_the_names_of_the_other_splits(tmp_path):
    """Microsoft's val_map.txt, whose images lie in no class folders."""
    archive(tmp_path, ["n01/1.png", "n02/1.png"], lines=["n01/1.png\t0", "n02/1.png\t1"])
    archive(tmp_path, ["1.png", "2.png"], name="val", lines=["1.png\t1", "2.png\t0"])
    assert ZipImages.open(str(tmp_path), "validation").classes == ["n01", "n02"]
    archive(tmp_path, ["1.png", "2.png", "3.png"], name="val", lines=["1.png\t1", "2.png\t0", "3.png\t2"])
    assert ZipImages.open(str(tmp_path), "validation").classes == ["class 0", "class 1", "class 2"]


def test_classes_that_share_a_folder_are_numbered(tmp_path):
    archive(tmp_path, ["1.png", "2.png"], lines=["1.png\t1", "2.png\t0"])
    assert ZipImages.open(str(tmp_path), "train").classes == ["class 0", "class 1"]


SYNSETS = ["n00000001/a.png", "n00000002/b.png"]


@pytest.mark.parametrize(
    ("names", "lines", "says"),
    [
        (["a.png"], None, "has no class folders and no train_map.txt"),
        (["a/notes.txt"], None, "has no class folders and no train_map.txt"),
        (["a/1.png"], ["a/1.png 0"], "train_map.txt, line 1: write PATH<TAB>LABEL"),
        (["a/1.png"], ["a/1.png\t0", "a/2.png\t0"], "line 2: .*train.zip has no a/2.png"),
        (["a/1.png"], [], "train_map.txt is empty"),
        (["a/1.png"], ["a/1.png\t1"], "has 2 classes and no image of class 0"),
        (SYNSETS, [f"{SYNSETS[0]}\t1", f"{SYNSETS[1]}\t0"], "numbers its WordNet synsets in another order"),
    ],
)
def test_refused(tmp_path, names, lines, says):
    archive(tmp_path, names, lines=lines)
    with pytest.raises(UserError, match=says):
        ZipImages.open(str(tmp_path), "train")


def test_a_map_that_is_no_text(tmp_path):
    archive(tmp_path, ["a/1.png"])
    (tmp_path / "train_map.txt").write_bytes(b"a/\xff.png\t0\n")
    with pytest.raises(UserError, match=r"train_map.txt can't be read as UTF-8 text"):
        ZipImages.open(str(tmp_path), "train")


def test_no_archive_and_a_damaged_one(tmp_path):
    with pytest.raises(UserError, match=r"has no validation.zip or val.zip: make it with python -m dataset.pack"):
        ZipImages.open(str(tmp_path), "validation")
    (tmp_path / "train.zip").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(UserError, match="no zip archive that can be read"):
        ZipImages.open(str(tmp_path), "train")
    archive(tmp_path, ["a/1.png"], method=zipfile.ZIP_BZIP2)
    with pytest.raises(UserError, match="compressed in another way"):
        ZipImages.open(str(tmp_path), "train")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_member_is_one_bad_image(tmp_path, method):
    archive(tmp_path, ["a/1.png", "a/2.png", "b/1.png"], method=method)
    content = bytearray((tmp_path / "train.zip").read_bytes())
    content[500] ^= 4  # in the first picture
    (tmp_path / "train.zip").write_bytes(content)
    images = ZipImages.open(str(tmp_path), "train")
    with pytest.raises(BadImageError, match="damaged"):
        images.content(0)
    data = ImageDataset(images, lambda image, _: image, bad_images=str(tmp_path / "bad.txt"))
    assert torch.equal(data[0][0], images.image(1))  # the next one
    assert (tmp_path / "bad.txt").read_text() == f"{tmp_path}/train.zip:a/1.png\tthe archive is damaged here\n"


def test_each_process_has_a_file_of_its_own(tmp_path):
    tree(tmp_path / "data", images=6)
    names = [f"{name}/{index}.png" for name in "abc" for index in range(6)]
    archive(tmp_path, names)
    images = ZipImages.open(str(tmp_path), "train")
    expected = [images.content(index) for index in range(len(images))]
    again = pickle.loads(pickle.dumps(images))
    assert not again._files
    assert [again.content(index) for index in range(len(again))] == expected
    data = ImageDataset(images, lambda image, _: image[:, :30, :40].contiguous())
    for batch, labels in DataLoader(data, batch_size=9, num_workers=2):
        assert batch.shape == (9, 3, 30, 40)
        assert set(labels.tolist()) <= {0, 1, 2}
    assert list(images._files) == [os.getpid()]
