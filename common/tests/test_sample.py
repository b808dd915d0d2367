from __future__ import annotations

import builtins
import hashlib
import multiprocessing
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torchvision.datasets.imagenet
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10, ImageFolder

from common import sample
from common.cifar10 import read_cifar10
from common.imagenet import require
from common.sample import CLASSES, SampleError, write_sample


def snapshot(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_format_passes_its_check(sample_data):
    for layout, name in (("folders", "imagenet1k"), ("cifar10", "cifar10"), ("archives", "archives")):
        verdict = require(sample_data / name, layout)
        assert verdict.classes == CLASSES
        assert verdict.notes == ()
        assert verdict.counts["validation"] == 360
        assert verdict.counts.get("train", 1437) == 1437


def test_class_folders_read_by_torchvision(sample_data):
    train = ImageFolder(str(sample_data / "imagenet1k/train"))
    validation = ImageFolder(str(sample_data / "imagenet1k/validation"))
    assert train.classes == validation.classes == [f"digit_{k}" for k in range(10)]
    everything = np.bincount(load_digits().target)
    share = np.bincount(validation.targets) / everything
    np.testing.assert_array_equal(np.bincount(train.targets) + np.bincount(validation.targets), everything)
    assert np.abs(share - 0.2).max() < 0.004  # stratified: within one image of 20 %
    with Image.open(train.samples[0][0]) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (16, 16))


def test_pictures_are_the_scans(sample_data):
    """Averaged back to 8 x 8, a file is the scan whose number its name bears, and lies in the folder of its digit."""
    digits = load_digits()
    for name in CLASSES:
        path = sorted((sample_data / "imagenet1k/train" / name).iterdir())[0]
        number = int(path.stem.split("_")[-1])
        with Image.open(path) as image:
            small = np.asarray(image.convert("L"), np.float64).reshape(8, 2, 8, 2).mean((1, 3))
        assert np.corrcoef(small.ravel(), digits.images[number].ravel())[0, 1] > 0.97
        assert name == f"digit_{digits.target[number]}"


def test_no_scan_is_in_both_splits(sample_data):
    images, labels, _ = read_cifar10(sample_data / "cifar10", "train")
    other, other_labels, _ = read_cifar10(sample_data / "cifar10", "validation")
    numbers = [picture.number for pictures in sample.load_digits().values() for picture in pictures]
    assert sorted(numbers) == list(range(1797))
    assert (len(images), len(other)) == (1437, 360)
    np.testing.assert_array_equal(
        np.bincount(labels) + np.bincount(other_labels), np.bincount(load_digits().target)
    )  # fmt: skip


class SampleCIFAR10(CIFAR10):
    """torchvision's reader without the checksums of the original files."""

    train_list = [[name, None] for name, _ in CIFAR10.train_list]
    test_list = [[name, None] for name, _ in CIFAR10.test_list]
    meta = {**CIFAR10.meta, "md5": None}


@pytest.mark.parametrize(("split", "train"), [("train", True), ("validation", False)])
def test_cifar_read_by_torchvision(sample_data, split, train):
    theirs = SampleCIFAR10(str(sample_data / "cifar10"), train=train)
    images, labels, names = read_cifar10(sample_data / "cifar10", split)
    np.testing.assert_array_equal(theirs.data, images)
    assert (theirs.targets, theirs.classes) == (labels.tolist(), names)
    with pytest.raises(RuntimeError, match="not found or corrupted"):
        CIFAR10(str(sample_data / "cifar10"), train=train)  # its checksums are those of the original


def test_cifar_has_the_keys_of_the_original(sample_data):
    folder = sample_data / "cifar10/cifar-10-batches-py"
    sizes = []
    for k in range(1, 6):
        batch = pickle.loads((folder / f"data_batch_{k}").read_bytes(), encoding="bytes")
        assert set(batch) == {b"batch_label", b"labels", b"data", b"filenames"}
        sizes.append(len(batch[b"data"]))
        assert len(batch[b"filenames"]) == len(set(batch[b"filenames"])) == len(batch[b"labels"]) == sizes[-1]
    assert sum(sizes) == 1437
    assert max(sizes) - min(sizes) <= 1
    meta = pickle.loads((folder / "batches.meta").read_bytes(), encoding="bytes")
    assert set(meta) == {b"label_names", b"num_cases_per_batch", b"num_vis"}


@pytest.mark.parametrize(("split", "ours"), [("train", "train"), ("val", "validation")])
def test_archives_unpacked_by_torchvision(sample_data, tmp_path, monkeypatch, split, ours):
    """torchvision reads tars, ground truth and meta.mat; the result is our folder layout, file by file."""
    known = {}
    for key, (name, _) in torchvision.datasets.imagenet.ARCHIVE_META.items():
        data = (sample_data / "archives" / name).read_bytes()
        (tmp_path / name).write_bytes(data)
        known[key] = (name, hashlib.md5(data).hexdigest())
    monkeypatch.setattr(torchvision.datasets.imagenet, "ARCHIVE_META", known)
    data = torchvision.datasets.ImageNet(str(tmp_path), split)
    assert tuple(data.wnids) == CLASSES
    assert data.classes[3] == ("3", "digit 3")
    assert snapshot(tmp_path / split) == snapshot(sample_data / "imagenet1k" / ours)


def test_devkit_numbers_are_not_alphabetical(sample_data):
    assert sorted(sample.DEVKIT_IDS.values()) == list(range(1, 11))
    assert all(number != k + 1 for k, number in enumerate(sample.DEVKIT_IDS.values()))


def test_same_bytes_again_and_others_for_another_seed(sample_data, tmp_path):
    write_sample(tmp_path / "again", format="all", size=16)
    assert snapshot(tmp_path / "again") == snapshot(sample_data)
    write_sample(tmp_path / "other", format="cifar10", size=16, seed=1)
    ours, other = snapshot(sample_data / "cifar10"), snapshot(tmp_path / "other")
    assert [name for name in sorted(ours) if ours[name] == other[name]] == ["cifar-10-batches-py/batches.meta"]


def test_size(tmp_path):
    write_sample(tmp_path / "data", size=48)
    path = next((tmp_path / "data/train/digit_0").iterdir())
    with Image.open(path) as image:
        assert image.size == (48, 48)
    for size in (7, 1025):
        with pytest.raises(SampleError, match=f"A size of {size} pixels is out of range: choose 8 to 1024"):
            write_sample(tmp_path / "no", size=size)
    assert not (tmp_path / "no").exists()


def test_second_time_nothing_is_written(tmp_path, monkeypatch):
    target = tmp_path / "data"
    assert write_sample(target, format="cifar10") == [target]
    times = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    monkeypatch.setattr(sample, "load_digits", None)  # not even called
    assert write_sample(target, format="cifar10") == [target]
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*")} == times
    assert list(tmp_path.iterdir()) == [target]


def test_foreign_folders_are_left_alone(tmp_path):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    assert write_sample(foreign, format="cifar10") == [foreign]  # an empty folder may be filled
    (foreign / "sample.json").unlink()
    before = snapshot(foreign)
    with pytest.raises(SampleError, match="foreign holds something else: choose another folder, or remove it"):
        write_sample(foreign, format="cifar10")
    assert snapshot(foreign) == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SampleError, match="file holds something else"):
        write_sample(tmp_path / "file", size=8)
    assert (tmp_path / "file").read_text() == "mine"


def test_other_settings_and_changed_samples_are_told(tmp_path):
    target = tmp_path / "data"
    write_sample(target, format="cifar10")
    for change in ({"size": 9}, {"seed": 1}, {"format": "folders"}):
        with pytest.raises(SampleError, match="data holds a sample made with other settings: choose another"):
            write_sample(target, **{"format": "cifar10", **change})
    (target / "cifar-10-batches-py/data_batch_2").unlink()
    with pytest.raises(SampleError, match=r"The sample in .*/data was changed: remove it, or choose another folder"):
        write_sample(target, format="cifar10")


def test_failure_leaves_nothing(tmp_path, monkeypatch):
    def fail(folder, splits, size):
        (folder / "train").mkdir()
        raise OSError("disk full")

    monkeypatch.setitem(sample.WRITERS, "folders", fail)
    with pytest.raises(OSError, match="disk full"):
        write_sample(tmp_path / "data", size=8)
    assert list(tmp_path.iterdir()) == []


def test_without_scikit_learn(tmp_path, monkeypatch):
    def refuse(name, *arguments, **options):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return imported(name, *arguments, **options)

    imported = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(SampleError, match=r"The sample is made from scikit-learn's digits: pip install scikit-learn\."):
        write_sample(tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_processes_that_start_at_once_agree(tmp_path, sample_data):
    """As eight ranks would: every one succeeds, one result, no leftovers."""
    context = multiprocessing.get_context("spawn")
    options = {"format": "cifar10", "size": 16}
    processes = [context.Process(target=write_sample, args=(tmp_path / "data",), kwargs=options) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert snapshot(tmp_path / "data") == snapshot(sample_data / "cifar10")


def test_importing_the_check_is_light():
    code = "import sys, common.imagenet; print([name for name in ('sklearn', 'scipy', 'torch') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout == "[]\n"
