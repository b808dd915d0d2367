"""Raw data of every layout give the same shards."""

import csv
import shutil
import tarfile

import numpy as np
import pytest

from errors import UserError
from tests.shard_data import contents, make, read_shards


def flatten(raw, folder):
    """Class folders -> the layout of the documented commands: flat validation images and synset_labels.txt."""
    shutil.copytree(raw / "imagenet1k", folder)
    images = sorted((folder / "validation").glob("*/*"), key=lambda path: path.name)
    for image in images:
        shutil.move(str(image), str(folder / "validation" / image.name))
    for name in {image.parent for image in images}:
        name.rmdir()
    return folder, [image.parent.name for image in images]


def test_the_documented_layout(shards, raw, tmp_path):
    """Line k of synset_labels.txt labels the k-th image by name; leftover class archives do no harm."""
    folder, labels = flatten(raw, tmp_path / "flat")
    (folder / "synset_labels.txt").write_text("".join(f"{label}\n" for label in labels))
    shutil.copy(raw / "archives/ILSVRC2012_img_val.tar", folder / "train/n00000001.tar")
    assert contents(make(folder, tmp_path / "out")) == contents(shards)
    (folder / "synset_labels.txt").unlink()
    with pytest.raises(UserError, match="no labels beside it"):
        make(folder, tmp_path / "no")


@pytest.mark.parametrize("labels", ["synset_labels.txt", "ILSVRC2012_devkit_t12.tar.gz"])
def test_archives_give_the_same_shards(shards, raw, tmp_path, labels):
    folder = tmp_path / "archives"
    folder.mkdir()
    for name in ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", labels):
        shutil.copy(raw / "archives" / name, folder / name)
    before = sorted(tmp_path.rglob("*"))
    assert contents(make(folder, tmp_path / "out")) == contents(shards)
    assert sorted(path for path in tmp_path.rglob("*") if tmp_path / "out" not in (path, *path.parents)) == before


def test_unpacked_devkit_and_kaggle(shards, raw, tmp_path):
    folder, labels = flatten(raw, tmp_path / "flat")
    with tarfile.open(raw / "archives/ILSVRC2012_devkit_t12.tar.gz") as devkit:
        devkit.extractall(folder, filter="data")
    assert contents(make(folder, tmp_path / "out")) == contents(shards)
    shutil.rmtree(folder / "ILSVRC2012_devkit_t12")
    tree = tmp_path / "kaggle/ILSVRC/Data/CLS-LOC"
    tree.parent.mkdir(parents=True)
    shutil.move(str(folder), str(tree))
    (tree / "validation").rename(tree / "val")
    with open(tmp_path / "kaggle/LOC_val_solution.csv", "w", newline="") as file:
        rows = [(f"ILSVRC2012_val_{k:08d}", f"{label} 1 2 3 4") for k, label in enumerate(labels, start=1)]
        csv.writer(file).writerows([("ImageId", "PredictionString"), *reversed(rows)])
    assert contents(make(tmp_path / "kaggle", tmp_path / "out2")) == contents(shards)


def test_hostile_archives_write_nowhere(raw, tmp_path):
    """Members are read in place: a name that climbs out of the folder, an absolute one or a link is no danger."""
    folder = tmp_path / "in/archives"
    shutil.copytree(raw / "archives", folder)
    good = folder / "ILSVRC2012_img_val.tar"
    with tarfile.open(good) as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}
    evil = {name: name for name in members}
    evil["ILSVRC2012_val_00000001.JPEG"] = "../../ILSVRC2012_val_00000001.JPEG"
    evil["ILSVRC2012_val_00000002.JPEG"] = str(tmp_path / "ILSVRC2012_val_00000002.JPEG")
    with tarfile.open(good, "w") as archive:
        for name, data in members.items():
            file = tmp_path / "member"
            file.write_bytes(data)
            archive.add(file, evil[name].lstrip("/") if name != "ILSVRC2012_val_00000002.JPEG" else evil[name])
        link = tarfile.TarInfo("link.JPEG")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    (tmp_path / "member").unlink()
    make(folder, tmp_path / "out", "--splits", "validation")
    names = [record["image/filename"].decode() for record in read_shards(tmp_path / "out", "validation")]
    assert names == [f"ILSVRC2012_val_{k:08d}.JPEG" for k in range(1, 361)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["archives"]


def test_labels_that_do_not_fit(raw, tmp_path):
    folder = shutil.copytree(raw / "archives", tmp_path / "archives")
    (folder / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    lines = (folder / "synset_labels.txt").read_text().splitlines()
    (folder / "synset_labels.txt").write_text("\n".join(lines[:-1]))
    with pytest.raises(UserError, match="359 labels for the 360 images"):
        make(folder, tmp_path / "out")
    assert np.all([not path.name.startswith("train-") for path in tmp_path.rglob("*")])


def test_one_split_keeps_the_numbers_of_all_classes(raw, tmp_path):
    source = shutil.copytree(raw / "imagenet1k", tmp_path / "raw")
    shutil.rmtree(source / "validation/digit_0")  # the other split still knows it
    make(source, tmp_path / "out", "--splits", "validation", "--limit", "50")
    records = read_shards(tmp_path / "out", "validation")
    assert len(records) == 50
    names = [record["image/filename"].decode() for record in records]
    assert names == sorted(names)
    assert all(record["image/class/synset"] == b"digit_%d" % (record["image/class/label"] - 1) for record in records)
