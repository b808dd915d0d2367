from __future__ import annotations

import io
import struct
import tarfile

import pytest

from common import folders, shards
from common.imagenet import check, require
from common.shards import list_archive, record_spans


def record(data):
    """TFRecord framing; the two checksums are not looked at."""
    return struct.pack("<Q", len(data)) + b"\0\0\0\0" + data + b"\0\0\0\0"


def sentences(verdict):
    return [str(problem) for problem in verdict.problems]


@pytest.fixture
def tfrecords(folder):
    for split, number in (("train", 3), ("validation", 2)):
        for k in range(number):
            folder.write(f"{split}/{split}-{k:05d}-of-{number:05d}", record(b"abc") + record(b"") + record(b"x" * 300))
    return folder


def test_shards(tfrecords):
    verdict = check(tfrecords.root)
    assert (verdict.layout, verdict.problems, verdict.counts) == ("tfrecord", (), {})
    assert verdict.splits == {split: tfrecords.root / split for split in ("train", "validation")}
    assert require(tfrecords.root, "tfrecord", "validation").splits == {"validation": tfrecords.root / "validation"}


def test_shards_may_lie_side_by_side(folder):
    for name in ("train-00000-of-00001", "validation-00000-of-00001"):
        folder.write(name, record(b"abc"))
    assert require(folder.root, "tfrecord").splits == {"train": folder.root, "validation": folder.root}


def test_record_spans(tmp_path):
    path = tmp_path / "shard"
    path.write_bytes(record(b"abc") + record(b"") + record(b"xyz!"))
    assert list(record_spans(path)) == [(12, 3), (31, 0), (47, 4)]
    for size in (1, 11, 14, 54):
        path.write_bytes((record(b"abc") + record(b"") + record(b"xyz!"))[:size])
        with pytest.raises(ValueError, match="is cut short"):
            list(record_spans(path))


def test_missing_shards(tfrecords):
    (tfrecords.root / "train/train-00001-of-00003").unlink()
    for k in range(2):
        (tfrecords.root / f"validation/validation-{k:05d}-of-00002").unlink()
    assert sentences(check(tfrecords.root)) == [
        f"{tfrecords.root}/train lacks 1 shard, first train-00001-of-00003: make the shards again.",
        f"{tfrecords.root} has no validation shards like validation/validation-00000-of-01024: "
        "make them with the TensorFlow app's preprocess_imagenet.py.",
    ]


def test_shards_of_two_runs(tfrecords):
    tfrecords.write("train/train-00003-of-01024", record(b"abc"))
    assert sentences(check(tfrecords.root)) == [
        f"{tfrecords.root}/train mixes shards of 3 and of 1024: remove those of the run that is not meant."
    ]


def test_damaged_shards(tfrecords):
    tfrecords.write("train/train-00002-of-00003", b"")
    tfrecords.write("validation/validation-00000-of-00002", record(b"abcdef")[:-5])
    assert sentences(check(tfrecords.root)) == [
        f"shard {tfrecords.root}/train/train-00002-of-00003 is damaged (empty): make the shards again.",
        f"shard {tfrecords.root}/validation/validation-00000-of-00002 is damaged (record at byte 0 is cut short): "
        "make the shards again.",
    ]


def test_full_counts_records_and_finds_later_damage(tfrecords, monkeypatch):
    assert sentences(check(tfrecords.root, full=True)) == [
        f"{tfrecords.root}/train has 9 records, not ImageNet-1k's 1,281,167: "
        "make the shards again from the complete images.",
        f"{tfrecords.root}/validation has 6 records, not ImageNet-1k's 50,000: "
        "make the shards again from the complete images.",
    ]
    monkeypatch.setattr(shards, "IMAGENET_COUNTS", {"train": 9, "validation": 6})
    assert check(tfrecords.root, full=True).counts == {"train": 9, "validation": 6}
    assert check(tfrecords.root, full=True).ok
    tfrecords.write("train/train-00000-of-00003", record(b"abc") + record(b"abc")[:-1])
    assert check(tfrecords.root).ok
    assert "record at byte 19 is cut short" in sentences(check(tfrecords.root, full=True))[0]


def test_wrong_layout_says_what_is_there(tfrecords):
    assert sentences(check(tfrecords.root, "folders")) == [
        f"{tfrecords.root} has TFRecord shards where class folders below train and validation are expected: "
        "pass the class folders that the shards were made from."
    ]
    tree = tfrecords.root / "tree"
    for split in ("train", "val"):
        (tree / split / "cat").mkdir(parents=True)
        (tree / split / "cat" / "a.png").touch()
    assert sentences(check(tree, "tfrecord")) == [
        f"{tree} has class folders below train and validation where TFRecord shards are expected: "
        "make shards with the TensorFlow app's preprocess_imagenet.py."
    ]
    assert sentences(check(tree, "archives")) == [
        f"{tree} has class folders below train and validation where ILSVRC 2012's archives are expected: "
        "pass the folder that has ILSVRC2012_img_train.tar."
    ]


def tar(**members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name.replace("_tar", ".tar").replace("_JPEG", ".JPEG"))
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


TRAIN = tar(n01_tar=tar(a_JPEG=b"1", b_JPEG=b"2"), n02_tar=tar(c_JPEG=b"3"))


@pytest.fixture
def archives(folder):
    folder.write("ILSVRC2012_img_train.tar", TRAIN)
    folder.write("ILSVRC2012_img_val.tar", tar(v1_JPEG=b"1" * 600, v2_JPEG=b"2"))
    folder.write("synset_labels.txt", "n01\nn02\n")
    return folder


def test_archives(archives, monkeypatch):
    verdict = check(archives.root)
    assert (verdict.layout, verdict.problems, verdict.counts) == ("archives", (), {"validation": 2})
    assert verdict.classes == ("n01", "n02")
    assert verdict.splits["train"] == archives.root / "ILSVRC2012_img_train.tar"
    monkeypatch.setattr(shards, "IMAGENET_COUNTS", {"train": 3, "validation": 2})
    assert check(archives.root, full=True).counts == {"train": 3, "validation": 2}
    assert check(archives.root, full=True).ok


def test_members_are_where_the_listing_says(archives):
    path = archives.root / "ILSVRC2012_img_train.tar"
    (offset, size), (second, _) = (list_archive(path)[0][name] for name in ("n01.tar", "n02.tar"))
    members, complete = list_archive(path, offset, size)
    assert complete
    assert {name: path.read_bytes()[start : start + size] for name, (start, size) in members.items()} == {
        "a.JPEG": b"1", "b.JPEG": b"2",
    }  # fmt: skip
    assert all(offset < start < second for start, _ in members.values())


def test_folders_and_links_are_no_members(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind in (("b.JPEG", tarfile.DIRTYPE), ("c.JPEG", tarfile.SYMTYPE), ("d.JPEG", tarfile.REGTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type = kind
            archive.addfile(entry)
    members, complete = list_archive(tmp_path / "a.tar")
    assert list(members) == ["d.JPEG"]
    assert complete


def test_archives_incomplete(archives):
    full = sentences(check(archives.root, full=True))
    train, validation = (archives.root / shards.ARCHIVES[split] for split in ("train", "validation"))
    assert full == [
        f"{train} has 3 images, not ImageNet-1k's 1,281,167: fetch it again.",
        f"{validation} has 2 images, not ImageNet-1k's 50,000: fetch it again.",
    ]
    archives.write(train.name, TRAIN[:3000])
    archives.write(validation.name, b"")
    assert sentences(check(archives.root)) == [
        f"archive {train} is cut short or not a tar file: fetch it again.",
        f"archive {validation} is cut short or not a tar file: fetch it again.",
    ]
    validation.unlink()
    archives.write(train.name, tar(n01_tar=b""))
    assert sentences(check(archives.root, full=True))[0] == (
        f"class archive n01.tar in {train} is empty or damaged: fetch the archive again."
    )
    assert sentences(check(archives.root, full=True))[-1] == (
        f"{archives.root} has no ILSVRC2012_img_val.tar: fetch it from image-net.org."
    )


@pytest.mark.parametrize("kept", [512, 1000, 1024 + 100])
def test_class_archive_cut_short_inside_a_whole_archive(archives, kept):
    """What follows in the outer archive must not be taken for the rest of the inner one."""
    inner = tar(a_JPEG=b"1" * 600, b_JPEG=b"2" * 600)
    archives.write("ILSVRC2012_img_train.tar", tar(n01_tar=inner[:kept], n02_tar=inner))
    train = archives.root / "ILSVRC2012_img_train.tar"
    assert sentences(check(archives.root, full=True))[0] == (
        f"class archive n01.tar in {train} is empty or damaged: fetch the archive again."
    )


def test_archives_without_labels(archives):
    validation = archives.root / "ILSVRC2012_img_val.tar"
    archives.write("synset_labels.txt", "n01\n")
    assert sentences(check(archives.root)) == [
        f"{archives.root}/synset_labels.txt has 1 label for the 2 images of {validation}: fetch both again."
    ]
    (archives.root / "synset_labels.txt").unlink()
    assert sentences(check(archives.root)) == [
        f"{validation} comes without labels: fetch ILSVRC2012_devkit_t12.tar.gz from image-net.org "
        f"into {archives.root}."
    ]


def test_archives_where_class_folders_are_expected(archives):
    assert sentences(check(archives.root, "folders")) == [
        f"{archives.root} has ILSVRC 2012's archives where class folders below train and validation are expected: "
        "unpack them, for instance with torchvision.datasets.ImageNet(PATH, 'train') and (PATH, 'val')."
    ]


def test_archives_left_beside_the_unpacked_tree(archives):
    archives.good()
    assert check(archives.root).layout == "folders"
    assert require(archives.root).ok
    assert require(archives.root, "archives").ok
    assert folders.IMAGENET_COUNTS == {"train": 1281167, "validation": 50000}
