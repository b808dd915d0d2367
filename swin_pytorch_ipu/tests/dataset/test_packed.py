import hashlib
import json
import pickle

import numpy as np
import pytest
import torch

from dataset.folders import FolderImages
from dataset.pack import main
from dataset.packed import PackedImages, square
from dataset.sources import open_images
from preparation import Preparation
from run.errors import UserError
from tests.dataset.trees import tree


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tree(tmp_path_factory.mktemp("data") / "tree")


def pack(folders, output, *more):
    workers = [] if "zip" in more else ["--num-workers", "0"]
    main(["--data-path", str(folders), "--output", str(output), *workers, *map(str, more)])
    return str(output)


@pytest.fixture(scope="module")
def packed(folders, tmp_path_factory):
    return pack(folders, tmp_path_factory.mktemp("packed") / "p", "--size", 32)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_what_is_packed(folders, packed, split):
    source, images = open_images(str(folders), "folders", split), PackedImages(packed, split)
    assert images.classes == ["a", "b", "c"]
    assert len(images) == len(source)
    for index in range(len(source)):
        assert images.label(index) == source.label(index)
        assert torch.equal(images.image(index), square(source.image(index), 32))
        assert images.image(index).shape == (3, 32, 32)


@pytest.mark.parametrize(("size", "stored"), [((28, 28), 32), ((224, 224), 256), ((56, 56), 64)])
def test_evaluation_of_what_is_packed_at_its_size_is_that_of_the_files(folders, tmp_path, size, stored):
    """The central 224 of an image whose shorter side is 256, whether its central 256 were stored in between or not."""
    source = open_images(str(folders), "folders", "validation")
    images = PackedImages(pack(folders, tmp_path / "p", "--size", stored), "validation")
    cut = Preparation(size, "crop").cut
    for index in range(len(source)):
        assert torch.equal(cut(images.image(index)), cut(source.image(index)))


def test_a_worker_maps_the_file_by_itself(packed):
    images = PackedImages(packed, "train")
    data = pickle.dumps(images)
    assert len(data) < 2000
    assert torch.equal(pickle.loads(data).image(3), images.image(3))
    images.image(0).fill_(0)  # of a copy
    assert images.image(0).any()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "packed.json").write_text("{"), "packed.json can't be read"),
        (lambda folder: (folder / "train-images.npy").unlink(), "train-images.npy is missing or damaged"),
        (lambda folder: (folder / "train-labels.npy").write_bytes(b""), "train-labels.npy is missing or damaged"),
        (lambda folder: np.save(folder / "train-labels.npy", np.zeros(4)), "has not the 9 images"),
        (lambda folder: (folder / "packed.json").write_text('{"version": 0}'), "another version"),
    ],
)
def test_damage_is_told(folders, tmp_path, damage, says):
    folder = pack(folders, tmp_path / "p", "--size", 8)
    damage(tmp_path / "p")
    with pytest.raises(UserError, match=says):
        PackedImages(folder, "train")


def test_a_split_that_was_not_packed(folders, tmp_path):
    folder = pack(folders, tmp_path / "p", "--size", 8, "--splits", "train")
    with pytest.raises(UserError, match="has no packed validation images"):
        PackedImages(folder, "validation")


def test_archives_hold_the_files_as_they_are(folders, tmp_path):
    folder = pack(folders, tmp_path / "z", "--format", "zip")
    assert (tmp_path / "z" / "val_map.txt").read_text().splitlines()[-1] == "c/1.png\t2"
    for split in ("train", "validation"):
        source, images = open_images(str(folders), "folders", split), open_images(folder, "auto", split)
        assert images.classes == source.classes
        assert [images.label(i) for i in range(len(images))] == [source.label(i) for i in range(len(source))]
        for index in range(len(source)):
            assert torch.equal(images.image(index), source.image(index))
    again = pack(folders, tmp_path / "again", "--format", "zip")
    digests = [hashlib.sha256((tmp_path / name / "train.zip").read_bytes()).hexdigest() for name in ("z", "again")]
    assert digests[0] == digests[1]
    assert PackedImages(pack(again, tmp_path / "from_zip", "--size", 8), "train").classes == ["a", "b", "c"]


def test_packing_replaces_bad_images_and_stops_above_the_ratio(tmp_path):
    folders = tree(tmp_path / "tree", images=4)
    for name in ("0.JPEG", "2.JPEG"):
        (folders / "train" / "b" / name).write_bytes(b"no image")
    with pytest.raises(UserError, match="2 of 12 images cannot be decoded"):
        pack(folders, tmp_path / "p", "--size", 8)
    assert not list(tmp_path.glob("*p"))
    folder = pack(folders, tmp_path / "p", "--size", 8, "--bad-image-ratio", 0.5)
    images = PackedImages(folder, "train")
    assert torch.equal(images.image(4), images.image(5))
    assert len((tmp_path / "p" / "bad_images.txt").read_text().splitlines()) == 2


def test_nothing_is_overwritten(folders, tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        pack(folders, tmp_path / "p")
    with pytest.raises(UserError, match="--data-path is required"):
        main(["--output", str(tmp_path / "q")])
    with pytest.raises(UserError, match="only with --format packed"):
        main(["--data-path", "x", "--output", "y", "--format", "zip", "--size", "8"])


def test_which_kind_is_found_out(folders, packed, tmp_path):
    assert isinstance(open_images(str(folders), "auto", "train"), FolderImages)
    assert isinstance(open_images(packed, "auto", "train"), PackedImages)
    with pytest.raises(UserError, match="train"):
        open_images(packed, "folders", "train")
    description = json.loads((tmp_path.parent / packed / "packed.json").read_text())
    assert description["splits"] == {"train": 9, "validation": 6}
