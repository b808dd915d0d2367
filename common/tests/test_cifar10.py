from __future__ import annotations

import io
import os
import pickle
import re
import shutil

import numpy as np
import pytest

from common import cifar10
from common.cifar10 import python2_pickle, read_cifar10, read_pickle
from common.imagenet import check, require


def sentences(verdict):
    return [str(problem) for problem in verdict.problems]


@pytest.fixture
def batches(tmp_path):
    """Two images of random bytes per batch, in two classes."""
    return write_batches(tmp_path)


def write_batches(root):
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for k, name in enumerate([*cifar10.BATCHES["train"], *cifar10.BATCHES["validation"]]):
        data = np.random.default_rng(k).integers(0, 256, (2, 3072), np.uint8)
        (folder / name).write_bytes(python2_pickle({"labels": [0, 1], "data": data, "filenames": ["a", "b"]}))
    meta = {"num_cases_per_batch": 2, "label_names": ["cat", "dog"], "num_vis": 3072}
    (folder / "batches.meta").write_bytes(python2_pickle(meta))
    return root


def test_good_batches(batches):
    verdict = check(batches)
    assert (verdict.layout, verdict.problems, verdict.classes) == ("cifar10", (), ("cat", "dog"))
    assert verdict.counts == {"train": 10, "validation": 2}
    assert require(batches / "cifar-10-batches-py", "cifar10").ok  # the folder itself will do


def test_reading(batches):
    images, labels, names = read_cifar10(batches, "train")
    assert (images.shape, images.dtype, names) == ((10, 32, 32, 3), np.uint8, ["cat", "dog"])
    assert labels.tolist() == [0, 1] * 5
    third = np.random.default_rng(1).integers(0, 256, (2, 3072), np.uint8)[0]  # first of data_batch_2
    for channel, row, column in ((0, 0, 0), (1, 5, 7), (2, 31, 30)):
        assert images[2, row, column, channel] == third[channel * 1024 + row * 32 + column]
    images[0] = 0  # a copy, not a view of the file's bytes


@pytest.mark.parametrize("encoding", ["latin1", "bytes"])
def test_what_we_write_is_what_ordinary_readers_expect(encoding):
    data = np.arange(3 * 3072).astype(np.uint8).reshape(3, 3072)
    content = pickle.loads(python2_pickle({"labels": [7, 300, -1], "data": data, "n": ["\xe9"]}), encoding=encoding)
    names = ("labels", "data", "n") if encoding == "latin1" else (b"labels", b"data", b"n")
    assert tuple(content) == names
    assert content[names[0]] == [7, 300, -1]
    assert content[names[2]] == ["\xe9" if encoding == "latin1" else b"\xe9"]
    assert content[names[1]].dtype == np.uint8
    np.testing.assert_array_equal(content[names[1]], data)
    content[names[1]][0] = 0  # a plain array that owns its bytes


def test_original_spelling_of_arrays():
    """The opcodes of a file written by Python 2 and numpy 1, where dtype's flags were numbers."""
    modern = python2_pickle({"data": np.arange(6, dtype=np.uint8).reshape(2, 3)})
    original = modern.replace(b"\x89\x88\x87R", b"K\x00K\x01\x87R")
    assert original != modern
    assert b"numpy.core.multiarray" in original
    array = cifar10._CifarUnpickler(io.BytesIO(original), encoding="bytes").load()[b"data"].array()
    assert array.tolist() == [[0, 1, 2], [3, 4, 5]]


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", range(6))
def test_hostile_pickle_never_runs(batches, protocol):
    proof = batches / "proof"
    hostile = pickle.dumps({"labels": [0, 1], "data": Hostile(proof)}, protocol)
    path = batches / "cifar-10-batches-py/data_batch_3"
    path.write_bytes(hostile)
    assert sentences(check(batches)) == [
        f"{path} cannot be used (UnpicklingError: it asks for posix.system, which no CIFAR file needs): "
        "unpack cifar-10-python.tar.gz again."
    ]
    with pytest.raises(ValueError, match=r"posix\.system"):
        read_cifar10(batches, "train")
    assert not proof.exists()
    pickle.loads(hostile)  # it would have run
    assert proof.exists()


@pytest.mark.parametrize("name", ["builtins\neval", "builtins\ngetattr", "numpy.core.multiarray\nscalar", "numpy\nload",
                                  "numpy.testing\nmeasure", "common.cifar10\npickle", "io\nopen"])  # fmt: skip
def test_every_other_name_is_refused(tmp_path, name):
    path = tmp_path / "batch"
    path.write_bytes(b"\x80\x02c" + name.encode() + b"\n.")
    with pytest.raises(ValueError, match=f"asks for {name.splitlines()[0]}.*, which no CIFAR file needs"):
        read_pickle(path)


def test_allowed_names_are_stand_ins():
    """numpy's own functions are never called with what a file says."""
    known = cifar10._CifarUnpickler._KNOWN
    assert set(known) == {("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}
    assert {value.__module__ for value in known.values()} == {"common.cifar10"}


GOOD = {"labels": [0, 1], "data": np.zeros((2, 3072), np.uint8)}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "EOFError"),
        (python2_pickle(GOOD)[:-40], "UnpicklingError|EOFError"),
        (b"\x89PNG\r\n\x1a\n", "UnpicklingError"),
        (python2_pickle({"labels": [0, 1]}), "it lacks data or labels"),
        (python2_pickle({**GOOD, "labels": "0"}), "it lacks data or labels"),
        (python2_pickle({**GOOD, "labels": [0]}), "its data is (2, 3072) for 1 label of 3072 bytes each"),
        (python2_pickle({**GOOD, "labels": [0, -1]}), "a label is not a class number"),
        (python2_pickle({**GOOD, "labels": [0, "1"]}), "a label is not a class number"),
        (python2_pickle({**GOOD, "data": np.zeros((2, 9), np.uint8)}), "its data is (2, 9) for 2 labels"),
        (python2_pickle(GOOD).replace(b"u1", b"O8"), "its data is not made of bytes"),
        (python2_pickle(GOOD).replace(b"J\x00\x0c\x00\x00", b"J\x00\x0d\x00\x00"), "cannot reshape"),
        (python2_pickle(GOOD).replace(b"J\x00\x0c\x00\x00", b"J\xff\xff\xff\xff"), "not a two-dimensional array"),
        (b"\x80\x02](J\x00\x00\x00\x00e.", "it does not hold a dictionary"),
    ],
)
def test_damaged_batch(batches, content, reason):
    path = batches / "cifar-10-batches-py/test_batch"
    path.write_bytes(content)
    (sentence,) = sentences(check(batches))
    assert sentence.startswith(f"{path} cannot be used (")
    assert re.search(reason if "|" in reason else re.escape(reason), sentence)


def test_label_beyond_the_class_names(batches):
    path = batches / "cifar-10-batches-py/data_batch_2"
    path.write_bytes(python2_pickle({**GOOD, "labels": [0, 2]}))
    assert sentences(check(batches)) == [
        f"{path} has label 2, but batches.meta names 2 classes: unpack cifar-10-python.tar.gz again."
    ]


def test_missing_files(batches):
    folder = batches / "cifar-10-batches-py"
    (folder / "data_batch_5").unlink()
    (folder / "batches.meta").unlink()
    assert sentences(check(batches)) == [
        f"{folder}/batches.meta is missing: unpack cifar-10-python.tar.gz again.",
        f"{folder}/data_batch_5 is missing: unpack cifar-10-python.tar.gz again.",
    ]
    assert require_validation(batches) == [f"{folder}/batches.meta is missing: unpack cifar-10-python.tar.gz again."]


def require_validation(root):
    return sentences(check(root, "cifar10", splits=["validation"]))


def test_empty_batch(batches):
    path = batches / "cifar-10-batches-py/test_batch"
    path.write_bytes(python2_pickle({"labels": [], "data": np.zeros((0, 3072), np.uint8)}))
    assert sentences(check(batches)) == [f"{path} has no images: unpack cifar-10-python.tar.gz again."]


def test_full_insists_on_cifar10(batches, monkeypatch):
    folder = batches / "cifar-10-batches-py"
    assert sentences(check(batches, full=True)) == [
        f"{folder} has 10 train images, not CIFAR-10's 50,000: unpack cifar-10-python.tar.gz again.",
        f"{folder} has 2 validation images, not CIFAR-10's 10,000: unpack cifar-10-python.tar.gz again.",
    ]
    monkeypatch.setattr(cifar10, "CIFAR_COUNTS", {"train": 10, "validation": 2})
    assert check(batches, full=True).ok


def test_no_batches(batches, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert sentences(check(empty, "cifar10")) == [
        f"{empty} has no cifar-10-batches-py folder: fetch and unpack cifar-10-python.tar.gz there."
    ]
    (empty / "cifar-10-python.tar.gz").touch()
    assert sentences(check(empty, "cifar10")) == [
        f"{empty} has no cifar-10-batches-py folder: unpack cifar-10-python.tar.gz there."
    ]
    shutil.move(str(batches / "cifar-10-batches-py"), str(empty / "cifar-10-batches-py"))
    assert sentences(check(tmp_path, "cifar10")) == [
        f"{tmp_path} has no cifar-10-batches-py folder: pass {empty}, which has one."
    ]
    assert sentences(check(empty, "folders")) == [
        f"{empty} has CIFAR-10's Python batches where class folders below train and validation are expected: "
        "choose the CIFAR-10 data set, or pass class folders."
    ]


def test_missing_path_names_the_format(tmp_path):
    assert sentences(check(tmp_path / "no", "cifar10"))[0].endswith(f"sample {tmp_path}/no --format cifar10.")
