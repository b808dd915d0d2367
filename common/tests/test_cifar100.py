from __future__ import annotations

import numpy as np
import pytest

from common.cifar10 import CIFAR100_FOLDER, find_cifar100, python2_pickle, read_cifar100

FINE = ["apple", "bear", "cloud"]


@pytest.fixture
def files(tmp_path):
    """Two images in `train`, one in `test`, each with a fine and a coarse label."""
    folder = tmp_path / CIFAR100_FOLDER
    folder.mkdir()
    for seed, (name, labels) in enumerate({"train": [2, 0], "test": [1]}.items()):
        data = np.random.default_rng(seed).integers(0, 256, (len(labels), 3072), np.uint8)
        batch = {"fine_labels": labels, "coarse_labels": [0] * len(labels), "data": data, "batch_label": name}
        (folder / name).write_bytes(python2_pickle(batch))
    meta = {"fine_label_names": FINE, "coarse_label_names": ["thing"]}
    (folder / "meta").write_bytes(python2_pickle(meta))
    return tmp_path


def test_reading(files):
    images, labels, names = read_cifar100(files, "train")
    assert (images.shape, images.dtype, names) == ((2, 32, 32, 3), np.uint8, FINE)
    assert labels.tolist() == [2, 0]
    second = np.random.default_rng(0).integers(0, 256, (2, 3072), np.uint8)[1]
    for channel, row, column in ((0, 0, 0), (1, 5, 7), (2, 31, 30)):
        assert images[1, row, column, channel] == second[channel * 1024 + row * 32 + column]
    assert read_cifar100(files / CIFAR100_FOLDER, "validation")[1].tolist() == [1]  # the folder itself will do
    assert find_cifar100(files) == files / CIFAR100_FOLDER


DATA = np.zeros((1, 3072), np.uint8)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("train", python2_pickle({"labels": [0], "data": DATA}), "lacks data or fine_labels"),
        ("train", python2_pickle({"fine_labels": [3], "data": DATA}), "not among 3 classes"),
        ("train", python2_pickle({"fine_labels": [], "data": DATA[:0]}), "not among 3 classes"),
        ("train", b"\x80\x02cposix\nsystem\n.", r"asks for posix\.system, which no CIFAR file needs"),
        ("meta", python2_pickle({"label_names": FINE}), "lacks fine_label_names"),
        ("meta", b"", "EOFError"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_named(files, name, content, reason):
    path = files / CIFAR100_FOLDER / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{path} cannot be used .*{reason}"):
        read_cifar100(files, "train")


def test_a_missing_file(files):
    (files / CIFAR100_FOLDER / "test").unlink()
    with pytest.raises(FileNotFoundError):
        read_cifar100(files, "validation")
