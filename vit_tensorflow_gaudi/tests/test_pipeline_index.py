"""Where the images lie, what classes they have, and the order they come in."""

import mmap

import numpy as np
import pytest
import tensorflow as tf

from dataset import dataset_info, index, info, training_dataset
from dataset.examples import locate
from dataset.index import open_index
from dataset.order import EvaluationOrder, TrainingOrder, augmentation_key, permutation
from dataset.reading import RecordReader
from errors import UserError
from tests.shard_data import encode, example, feature, noise, write_shards

IMAGES = [encode(noise(8, 8, seed)) for seed in range(37)]


@pytest.fixture
def folder(tmp_path):
    write_shards(tmp_path, "train", IMAGES)
    return write_shards(tmp_path, "validation", IMAGES[:5], shards=1)


def test_locate_agrees_with_tensorflow():
    """Features of all kinds before, between and after, in the order that the map happens to have."""
    random = np.random.default_rng(0)
    for case in range(50):
        image = random.bytes(int(random.integers(0, 400)))
        label = int(random.integers(-3, 2**40))
        others = {f"a{k}": [b"x" * k, k, 0.5][k % 3] for k in range(int(random.integers(0, 9)))}
        features = {"image/encoded": image, "image/class/label": label, **others}
        names = list(features)
        random.shuffle(names)
        record = (
            b"junk"
            + tf.train.Example(
                features=tf.train.Features(feature={name: feature(features[name]) for name in names})
            ).SerializeToString()
        )
        found = locate(record, 4, len(record))
        assert found.label == label, case
        assert record[found.offset : found.offset + found.size] == image, case


def test_locate_reads_unpacked_integers_and_empty_lists():
    unpacked = b"\x1a\x03\x08\xac\x02"  # Int64List{value: 300}, one tag per value
    entry = b"\x0a\x11image/class/label\x12" + bytes([len(unpacked)]) + unpacked
    features = b"\x0a" + bytes([len(entry)]) + entry
    record = b"\x0a" + bytes([len(features)]) + features
    assert tf.train.Example.FromString(record).features.feature["image/class/label"].int64_list.value == [300]
    assert locate(record, 0, len(record)) == (None, 0, 300)
    empty = tf.train.Example(features=tf.train.Features(feature={"image/class/label": tf.train.Feature()}))
    assert locate(empty.SerializeToString(), 0, empty.ByteSize()).label is None


@pytest.mark.parametrize("record", [b"\x0a\x7f", b"\x0b", b"\xff" * 12, b"\x0a\x03\x0a\x05a"])
def test_locate_refuses_other_bytes(record):
    with pytest.raises(ValueError, match=r"not a tf\.train\.Example"):
        locate(record, 0, len(record))


def test_index_gives_every_image(folder):
    found = open_index(folder, "train/train")
    reader = RecordReader(found)
    assert list(reader.read_many(np.arange(37))) == IMAGES
    assert list(reader.labels(np.arange(37))) == list(range(37))
    assert found.name(0) == "train-00000-of-00003 record 0"
    assert found.name(36) == "train-00002-of-00003 record 11"
    assert found.entries.dtype.itemsize <= 20  # 26 MB for all of ImageNet


def test_shards_need_not_stay_open(folder, monkeypatch):
    monkeypatch.setattr("dataset.reading._may_open", lambda count: False)
    reader = RecordReader(open_index(folder, "train/train"))
    assert list(reader.read_many(np.array([36, 0]))) == [IMAGES[36], IMAGES[0]]


def test_only_headers_are_read(tmp_path, monkeypatch):
    """Scanning touches some 100 bytes per record, whatever the size of the images."""
    write_shards(tmp_path, "train", [bytes(50_000)] * 4, shards=1)
    touched = set()

    class Spy(mmap.mmap):
        def __getitem__(self, key):
            touched.update(range(*key.indices(len(self))) if isinstance(key, slice) else [key])
            return super().__getitem__(key)

    monkeypatch.setattr("dataset.index.mmap.mmap", Spy)
    assert len(open_index(tmp_path, "train/train").entries) == 4
    assert len(touched) < 4 * 100


def test_index_is_kept_until_a_shard_changes(folder, monkeypatch):
    scans = []
    scan = index.scan
    monkeypatch.setattr(index, "scan", lambda path: scans.append(path.name) or scan(path))
    first = open_index(folder, "train/train").entries
    assert len(scans) == 3
    np.testing.assert_array_equal(open_index(folder, "train/train").entries, first)
    assert len(scans) == 3
    write_shards(folder, "train", IMAGES[::-1])
    open_index(folder, "train/train")
    assert len(scans) == 6
    (folder / "train/train.index.npz").write_bytes(b"PK broken")
    open_index(folder, "train/train")
    assert len(scans) == 9


def test_read_only_data_are_scanned_every_time(folder, monkeypatch, capsys):
    def refuse(path, content):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(index, "write_atomically", refuse)
    assert len(open_index(folder, "train/train").entries) == 37
    assert "cannot be kept in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (example(encoded=b"x"), "record 1 has no image/class/label"),
        (example(class_label=1), "record 1 has no image/encoded"),
        (example(encoded=b"x", class_label=0), "record 1 has label 0, labels count from 1"),
        (example(encoded=b"x", class_label=-1), "record 1 has label -1"),
        (b"\xff\xff", r"not a tf\.train\.Example"),
    ],
)
def test_records_without_image_or_label_are_errors(folder, record, said):
    with tf.io.TFRecordWriter(str(folder / "train/train-00001-of-00003")) as writer:
        writer.write(example(encoded=b"x", class_label=1))
        writer.write(record)
    with pytest.raises(UserError, match=f"train-00001-of-00003 is damaged .*{said}"):
        training_dataset(folder, image_size=8, batch_size=4, seed=0)


def test_labels_beyond_the_classes_are_errors(folder):
    info.write(folder, {"classes": [f"c{k}" for k in range(36)]})
    with pytest.raises(UserError, match=r"record 11 has label 37, but .*dataset_info\.json names 36 classes"):
        dataset_info(folder)


def test_shards_missing_mixed_cut_or_none(folder, tmp_path):
    second = folder / "train/train-00001-of-00003"
    content = second.read_bytes()
    second.write_bytes(content[:-3])
    with pytest.raises(UserError, match=r"train-00001-of-00003 is damaged .record at byte \d+ is cut short"):
        dataset_info(folder)
    second.write_bytes(b"")
    with pytest.raises(UserError, match=r"train-00001-of-00003 is damaged \(empty"):
        dataset_info(folder)
    second.rename(folder / "train/train-00001-of-00004")
    with pytest.raises(UserError, match="mixes shards of 3 and of 4"):
        dataset_info(folder)
    (folder / "train/train-00001-of-00004").unlink()
    with pytest.raises(UserError, match="lacks 1 of 3 shards, first number 1"):
        dataset_info(folder)
    with pytest.raises(UserError, match="has no shards like training/train-00000-of-01024"):
        dataset_info(folder, train_subset="training/train")
    with pytest.raises(UserError, match="nowhere does not exist"):
        dataset_info(tmp_path / "nowhere")


def test_info_of_shards_without_names(folder):
    found = dataset_info(folder)
    assert (found.train_samples, found.validation_samples, found.num_classes) == (37, 5, 37)
    assert found.class_names[:2] == ("1", "2")


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_training_order_covers_each_epoch_once(workers):
    """41 samples in batches of 8: 40 of them once per epoch, others left out in each; workers take turns in no way."""
    orders = [TrainingOrder(41, 8 // workers, 5, (k, workers)) for k in range(workers)]
    single = TrainingOrder(41, 8, 5)
    left_out = set()
    for epoch in range(6):
        seen = []
        for step in range(5 * epoch, 5 * epoch + 5):
            parts = [order.rows(step) for order in orders]
            assert {part[0] for part in parts} == {epoch}
            rows = np.concatenate([part[1] for part in parts])
            np.testing.assert_array_equal(rows, single.rows(step)[1])
            seen += rows.tolist()
        assert len(seen) == len(set(seen)) == 40
        left_out |= set(range(41)) - set(seen)
    assert len(left_out) > 2


def test_order_can_be_had_in_any_order_of_steps():
    order, other = TrainingOrder(41, 8, 5), TrainingOrder(41, 8, 5)
    forwards = [order.rows(step)[1] for step in range(20)]
    for step in (19, 0, 7, 12, 3):
        np.testing.assert_array_equal(other.rows(step)[1], forwards[step])


def test_permutations_are_fair_and_fixed():
    assert permutation(10, 0, 0).tolist() == [0, 8, 9, 3, 7, 5, 1, 2, 6, 4]  # for ever, with every version of NumPy
    counts = np.zeros((6, 6))
    for epoch in range(3000):
        counts[np.arange(6), permutation(6, 1, epoch)] += 1
    # 3000 / 6 = 500 in each cell, binomial with a deviation of 20
    assert np.abs(counts - 500).max() < 5 * 20.5


def test_too_few_samples():
    with pytest.raises(UserError, match="has 7 samples, fewer than one global batch of 8"):
        TrainingOrder(7, 4, 0, (1, 2))


@pytest.mark.parametrize(("samples", "batch", "workers"), [(50, 8, 1), (50, 8, 2), (50, 8, 3), (1, 4, 3), (48, 8, 3)])
def test_evaluation_order(samples, batch, workers):
    orders = [EvaluationOrder(samples, batch, (k, workers)) for k in range(workers)]
    assert len({order.steps for order in orders}) == 1
    rows = np.concatenate([order.rows(step)[1] for order in orders for step in range(order.steps)])
    np.testing.assert_array_equal(rows[rows < samples], np.arange(samples))
    assert len(rows) - samples < batch * workers


def test_augmentation_keys_differ():
    keys = {augmentation_key(seed, epoch) for seed in range(30) for epoch in range(30)}
    assert len(keys) == 900
    assert all(0 <= key < 2**62 for key in keys)
