"""preprocess_imagenet.py: what the shards hold, and how they are made again and again until they are whole."""

import random
import shutil

import pytest
from PIL import Image

from common.imagenet import check
from dataset import dataset_info
from errors import UsageError, UserError
from preprocess_imagenet import main
from preprocessing import conversion
from preprocessing.shards import chunks
from tests.shard_data import check_shards, contents, encode, make, noise, read_shards


def test_features_names_and_labels(shards, raw):
    names = sorted(path.name for path in (shards / "train").glob("train-*"))
    assert names == [f"train-{k:05d}-of-00004" for k in range(4)]
    assert len(list((shards / "validation").glob("validation-0000[01]-of-00002"))) == 2
    classes = sorted(path.name for path in (raw / "imagenet1k/train").iterdir())
    for split, count in (("train", 1437), ("validation", 360)):
        records = read_shards(shards, split)
        assert len(records) == count
        files = {path.name: path for path in (raw / "imagenet1k" / split).glob("*/*")}
        assert {record["image/filename"].decode() for record in records} == set(files)
        for record in records:
            path = files[record["image/filename"].decode()]
            assert record == {
                "image/height": 16, "image/width": 16, "image/colorspace": b"RGB", "image/channels": 3,
                "image/class/label": 1 + classes.index(path.parent.name),
                "image/class/synset": path.parent.name.encode(), "image/format": b"JPEG",
                "image/filename": path.name.encode(), "image/encoded": path.read_bytes(),
            }  # fmt: skip
    info = dataset_info(shards)
    assert (info.train_samples, info.validation_samples, info.num_classes) == (1437, 360, 10)
    assert info.class_names == tuple(classes)


def test_order(shards, raw):
    """Training: sorted by class and name, then shuffled by Python's generator of seed 0. Validation: by name."""
    wanted = [
        path.name for path in sorted((raw / "imagenet1k/train").glob("*/*"), key=lambda p: (p.parent.name, p.name))
    ]
    random.Random(0).shuffle(wanted)
    assert [record["image/filename"].decode() for record in read_shards(shards, "train")] == wanted
    names = [record["image/filename"].decode() for record in read_shards(shards, "validation")]
    assert names == [f"ILSVRC2012_val_{k:08d}.JPEG" for k in range(1, 361)]


@pytest.mark.parametrize(
    ("count", "number", "each", "last"), [(1281167, 1024, 1252, 371), (50000, 128, 391, 343), (7, 7, 1, 1)]
)
def test_chunks(count, number, each, last):
    bounds = chunks(count, number)
    assert [b - a for a, b in bounds] == [each] * (number - 1) + [last]
    assert bounds[0][0] == 0
    assert all(before[1] == after[0] for before, after in zip(bounds, bounds[1:]))


def test_resume(shards, raw, tmp_path, monkeypatch):
    """Interrupted in the third shard: two are there whole, nothing else; the same command makes the rest."""
    done = []

    def interrupted(job):
        if len(done) == 2:
            job.path.with_name(f".{job.path.name}.123.tmp").write_bytes(b"half a shard")
            raise KeyboardInterrupt
        done.append(job.path)
        return write(job)

    write = conversion.write_shard
    monkeypatch.setattr(conversion, "write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(raw / "imagenet1k", tmp_path / "out")
    monkeypatch.setattr(conversion, "write_shard", write)
    assert [path.name for path in sorted((tmp_path / "out/train").glob("train-*"))] == [path.name for path in done]
    with pytest.raises(UserError, match="not complete: run preprocess_imagenet"):
        dataset_info(tmp_path / "out")
    done[0].unlink()
    kept = done[1].stat().st_mtime_ns
    make(raw / "imagenet1k", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(shards)
    assert done[1].stat().st_mtime_ns == kept
    assert not list((tmp_path / "out").rglob("*.tmp"))
    assert dataset_info(tmp_path / "out") == dataset_info(shards)


def test_a_shard_is_there_whole_or_not_at_all(raw, tmp_path, monkeypatch):
    def fail(source, destination):
        raise OSError("disk full")

    monkeypatch.setattr("preprocessing.shards.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        make(raw / "imagenet1k", tmp_path / "out")
    assert not [path for path in (tmp_path / "out/train").iterdir() if "of" in path.name]


def test_other_settings_are_refused(copy, raw):
    before = contents(copy)
    for flags in (["--seed", "1"], ["--limit", "100"], ["--train_shards", "8"], ["--short_side", "8"]):
        with pytest.raises(UserError, match="holds shards of other images or settings"):
            make(raw / "imagenet1k", copy, *flags)
    assert contents(copy) == before


def test_several_processes_give_the_same_bytes(shards, raw, tmp_path):
    assert contents(make(raw / "imagenet1k", tmp_path / "out", "--workers", "2")) == contents(shards)


def test_bad_images_are_left_out_and_listed(raw, tmp_path):
    source = shutil.copytree(raw / "imagenet1k", tmp_path / "raw")
    files = sorted((source / "train").glob("*/*"))
    files[3].write_bytes(b"")
    make(source, tmp_path / "out", "--splits", "train")
    assert dataset_bad(tmp_path / "out") == [f"train/{files[3].parent.name}/{files[3].name}\tit has no bytes"]
    names = [record["image/filename"].decode() for record in read_shards(tmp_path / "out", "train")]
    assert set(names) == {path.name for path in files} - {files[3].name}
    check_shards(tmp_path / "out", "--splits", "train")
    files[4].write_bytes(b"text")
    with pytest.raises(UserError, match="2 of 1437 images cannot be decoded, more than the tolerated share"):
        make(source, tmp_path / "out2", "--splits", "train")
    make(source, tmp_path / "out3", "--splits", "train", "--bad_image_ratio", "0.01")
    assert len(dataset_bad(tmp_path / "out3")) == 2


def dataset_bad(folder):
    return (folder / "train/bad_images.txt").read_text().splitlines()


def test_conversion_of_odd_images(raw, tmp_path):
    source = shutil.copytree(raw / "imagenet1k", tmp_path / "raw")
    names = sorted((source / "train/digit_0").iterdir())
    pixels = noise(40, 60)
    names[0].write_bytes(encode(pixels))  # a PNG called JPEG
    Image.fromarray(pixels).convert("CMYK").save(names[1], "JPEG", quality=95)
    out = make(source, tmp_path / "out", "--splits", "train", "--image_format", "PPM", "--short_side", "20")
    records = {record["image/filename"].decode(): record for record in read_shards(out, "train")}
    for name in names[:2]:
        record = records[name.name]
        assert (record["image/height"], record["image/width"], record["image/format"]) == (20, 30, b"PPM")
    assert all(record["image/encoded"][:3] == b"P6\n" for record in records.values())
    check_shards(out, "--splits", "train")


def test_our_check_accepts_them(shards):
    verdict = check(shards)
    assert verdict.layout == "tfrecord"
    assert verdict.ok


def test_usage(raw, tmp_path):
    with pytest.raises(UsageError, match="--raw_data_dir is missing"):
        main([f"--local_scratch_dir={tmp_path}"])
    with pytest.raises(UsageError, match="leave --raw_data_dir out"):
        make(raw / "imagenet1k", tmp_path, "--verify")
    for wrong in (["--raw_data=x"], ["--train_shards", "0"], ["--splits", "test"]):
        with pytest.raises(UsageError):
            make(raw, tmp_path, *wrong)
    with pytest.raises(UserError, match="1437 images do not fill 1024 shards of 2: give a smaller --train_shards"):
        make(raw / "imagenet1k", tmp_path / "out", "--train_shards", "1024")
    with pytest.raises(UserError, match="no/such does not exist"):
        make(tmp_path / "no/such", tmp_path / "out")
    with pytest.raises(UserError, match="no raw ImageNet but cifar10"):
        make(raw / "cifar10", tmp_path / "out")
