import hashlib
import http.server
import io
import multiprocessing
import os
import pickle
import struct
import tarfile
import threading
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from dataset import DataSpec, create_dataset
from run.errors import UserError

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings, as the published files have them."""

    def save_string(self, text):
        self.write(pickle.BINSTRING + struct.pack("<i", len(text)) + text)

    dispatch: ClassVar[Any] = {**pickle._Pickler.dispatch, bytes: save_string}


def pickled(content):
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(content)
    return buffer.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")  # its name then


def batch(number, rows=4):
    pixels = np.random.default_rng(number).integers(0, 256, (rows, 3072), dtype=np.uint8)
    return {b"batch_label": b"a batch", b"labels": [(number + row) % 10 for row in range(rows)], b"data": pixels}


def write(folder, name, content):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else pickled(content))


@pytest.fixture
def folder(tmp_path):
    """A folder as the archive unpacks to, with four images a batch."""
    folder = tmp_path / "cifar-10-batches-py"
    for number, name in enumerate(BATCHES):
        write(folder, name, batch(number))
    write(folder, "batches.meta", {b"label_names": [name.encode() for name in NAMES], b"num_vis": 3072})
    return folder


def spec(path, **changes):
    return DataSpec(**{"name": "cifar10", "path": str(path), "image_size": 32, "eval_resize": "direct", **changes})


@pytest.mark.parametrize("inside", [False, True])
def test_images_and_labels_are_those_of_the_batches(folder, inside):
    data = create_dataset(spec(folder if inside else folder.parent), "validation")
    content = batch(5)
    assert len(data) == 4
    assert data.classes == NAMES
    for index, (image, label) in enumerate(data):
        red, green, blue = content[b"data"][index].reshape(3, 32, 32)  # the planes follow one another
        assert np.array_equal(image[0], red)
        assert np.array_equal(image[1], green)
        assert np.array_equal(image[2], blue)
        assert label == content[b"labels"][index]


def test_training_joins_the_five_batches_in_order(folder):
    data = create_dataset(spec(folder), "train")
    expected = [label for number in range(5) for label in batch(number)[b"labels"]]
    assert [data.source.label(index) for index in range(len(data))] == expected
    assert torch.equal(data.source.image(9).flatten(), torch.from_numpy(batch(2)[b"data"][1]))


def test_a_sample_may_be_changed_without_changing_the_data(folder):
    data = create_dataset(spec(folder), "validation")
    before = data[0][0].clone()
    data[0][0].zero_()
    assert torch.equal(data[0][0], before)


def test_the_digits_sample_loads(tmp_path):
    pytest.importorskip("sklearn")
    from common.imagenet import main

    assert main(["sample", str(tmp_path / "digits"), "--format", "cifar10"]) in (None, 0)
    train, validation = (create_dataset(spec(tmp_path / "digits", num_classes=10), s) for s in ("train", "validation"))
    assert len(train) + len(validation) == 1797
    assert sorted({int(label) for _, label in validation}) == list(range(10))


class Hostile:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("name", ["data_batch_3", "batches.meta"])
def test_hostile_pickle_is_refused_and_does_not_run(folder, name):
    marker = str(folder / "executed")
    hostile = pickled({b"data": Hostile(marker)})
    pickle.loads(hostile)
    assert os.path.isdir(marker), "the pickle would run"
    os.rmdir(marker)
    write(folder, name, hostile)
    with pytest.raises(UserError, match=rf"{name} cannot be used \(.*posix\.mkdir"):
        create_dataset(spec(folder), "train")
    assert not os.path.exists(marker)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        pickled(batch(1))[:-100],
        [1, 2],
        {b"labels": [0, 1]},
        {**batch(1), b"labels": None},
        {**batch(1), b"labels": [0, 1]},
        {**batch(1), b"labels": [0, 1, 2, 10]},
        {**batch(1), b"labels": [0, 1, 2, -1]},
        {**batch(1), b"labels": [0, 1, 2, "3"]},
        {**batch(1), b"data": batch(1)[b"data"][:, :-1]},
        {**batch(1), b"data": batch(1)[b"data"].astype(np.float32)},
        {**batch(1, rows=0)},
    ],
)
def test_damaged_batch_is_named(folder, content):
    write(folder, "data_batch_2", content)
    with pytest.raises(UserError, match=r"data_batch_2 .*unpack cifar-10-python.tar.gz again"):
        create_dataset(spec(folder), "train")


def test_missing_files_are_named(folder, tmp_path):
    os.remove(folder / "data_batch_4")
    assert len(create_dataset(spec(folder), "validation")) == 4
    with pytest.raises(UserError, match="data_batch_4 is missing"):
        create_dataset(spec(folder), "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no cifar-10-batches-py folder: fetch and unpack.* --download"):
        create_dataset(spec(tmp_path / "empty"), "train")


def test_class_count_must_be_the_models(folder):
    with pytest.raises(UserError, match=r"have 10 classes .* for 1000"):
        create_dataset(spec(folder, num_classes=1000), "train")


@pytest.fixture
def server():
    """Answers every request with `server.content` and counts in `server.sent` how often."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(server.content)))
            self.end_headers()

        def do_GET(self):
            server.sent += 1
            self.do_HEAD()
            self.wfile.write(server.content)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.sent = b"", 0
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def archive(folder, server, monkeypatch):
    """The published archive, in small, and a server that has it."""
    path = folder.parent / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name in sorted(os.listdir(folder)):
            data = (folder / name).read_bytes()
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    server.content = path.read_bytes()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/{path.name}")
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(server.content).hexdigest())
    return server


def _count(path, results):
    results.put(len(create_dataset(spec(path, download=True), "train")))


def test_several_processes_download_once(archive, tmp_path):
    assert len(create_dataset(spec(tmp_path / "alone", download=True), "train")) == 20
    requests, archive.sent = archive.sent, 0
    target = tmp_path / "new" / "data"
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_count, args=(target, results)) for _ in range(3)]
    for process in processes:
        process.start()
    counts = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert counts == [20, 20, 20]
    assert sorted(os.listdir(target)) == [".cifar10.lock", "cifar-10-batches-py"]
    assert len(create_dataset(spec(target, download=True), "validation")) == 4
    assert archive.sent == requests


def test_a_changed_archive_is_not_unpacked(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(CIFAR10, "tgz_md5", "0" * 32)
    with pytest.raises(UserError, match=r"could not be downloaded .*: fetch http:.* some other way"):
        create_dataset(spec(tmp_path / "new", download=True), "train")
    assert os.listdir(tmp_path / "new") == [".cifar10.lock"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../escaped", tarfile.REGTYPE),
        ("cifar-10-batches-py/../escaped", tarfile.REGTYPE),
        ("/tmp/escaped", tarfile.REGTYPE),
        ("cifar-10-batches-py/..", tarfile.REGTYPE),
        ("cifar-10-batches-py/data_batch_1", tarfile.REGTYPE),
        ("cifar-10-batches-py/link", tarfile.SYMTYPE),
        ("cifar-10-batches-py/link", tarfile.LNKTYPE),
        ("cifar-10-batches-py/pipe", tarfile.FIFOTYPE),
    ],
)
def test_an_archive_with_anything_else_in_it_is_not_unpacked(archive, folder, tmp_path, monkeypatch, name, kind):
    path = folder.parent / "hostile.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(folder, "cifar-10-batches-py")
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, str(tmp_path)
        tar.addfile(member)
    archive.content = path.read_bytes()
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.content).hexdigest())
    with pytest.raises(UserError, match="could not be downloaded"):
        create_dataset(spec(tmp_path / "new", download=True), "train")
    assert os.listdir(tmp_path / "new") == [".cifar10.lock"]
    assert not list(tmp_path.rglob("escaped"))


def test_nothing_is_fetched_unasked(archive, tmp_path):
    (tmp_path / "new").mkdir()
    with pytest.raises(UserError, match="no cifar-10-batches-py"):
        create_dataset(spec(tmp_path / "new"), "train")
    assert os.listdir(tmp_path / "new") == []
    assert archive.sent == 0


def test_a_server_that_is_gone_is_explained(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:1/cifar-10-python.tar.gz")
    with pytest.raises(UserError, match=r"could not be downloaded .*refused"):
        create_dataset(spec(tmp_path / "new", download=True), "train")
