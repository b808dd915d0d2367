"""The tf.data pipelines: what a step gets, on any number of workers and threads, resumed, and with bad images."""

import numpy as np
import pytest
import tensorflow as tf

from dataset import INCEPTION, Augmentation, evaluation_dataset, readable_errors, training_dataset
from dataset.order import permutation
from errors import UserError
from tests.shard_data import encode, noise, write_shards

COUNT = 37  # samples, each with a label of its own, so that a label tells the sample
IMAGES = [encode(noise(12 + seed % 5, 14, seed), "JPEG", quality=95) for seed in range(COUNT)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, "train", IMAGES)
    return write_shards(folder, "validation", IMAGES, shards=2)


def steps(folder, count, start=0, **options):
    options = {"image_size": 16, "batch_size": 8, "seed": 3, **options}
    dataset = training_dataset(folder, start_step=start, **options)
    return [(images.numpy(), labels.numpy()) for images, labels in dataset.take(count)]


def assert_same(ours, others):
    assert len(ours) == len(others)
    for (images, labels), (other_images, other_labels) in zip(ours, others):
        np.testing.assert_array_equal(labels, other_labels)
        np.testing.assert_array_equal(images, other_images)


@pytest.fixture(scope="module")
def reference(folder):
    """Three epochs and a bit: 37 // 8 = 4 steps each."""
    return steps(folder, 14)


def test_every_epoch_is_a_permutation(reference):
    for epoch in range(3):
        labels = np.concatenate([labels for _, labels in reference[4 * epoch : 4 * epoch + 4]])
        np.testing.assert_array_equal(labels, permutation(COUNT, 3, epoch)[:32])
    images, labels = reference[0]
    assert (images.shape, images.dtype, labels.dtype) == ((8, 16, 16, 3), np.uint8, np.int32)


def test_images_belong_to_their_labels(folder):
    """Without augmentation: the whole image, resized."""
    for images, labels in steps(folder, 4, augment=False):
        for image, label in zip(images, labels):
            decoded = tf.io.decode_jpeg(IMAGES[label], dct_method="INTEGER_ACCURATE")
            wanted = tf.image.resize(decoded, (16, 16)).numpy()
            assert np.abs(image - wanted).max() < 0.51


@pytest.mark.parametrize("start", [1, 4, 13])
def test_resumed_at_any_step(folder, reference, start):
    assert_same(steps(folder, 14 - start, start=start), reference[start:])


@pytest.mark.parametrize("threads", [1, 3, 8])
def test_threads_change_nothing(folder, reference, threads):
    assert_same(steps(folder, 14, threads=threads), reference)


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_see_together_what_one_sees(folder, reference, workers):
    parts = [steps(folder, 14, batch_size=8 // workers, shard=(k, workers)) for k in range(workers)]
    merged = [tuple(np.concatenate(arrays) for arrays in zip(*step)) for step in zip(*parts)]
    assert_same(merged, reference)


def test_chunks_of_a_batch_come_in_order(folder, reference, monkeypatch):
    monkeypatch.setattr("dataset.pipeline._CHUNK", 3)  # 8 = 4 x 2
    assert_same(steps(folder, 14), reference)
    floats = steps(folder, 14, dtype=tf.float32)
    assert floats[0][0].shape == (8, 16, 16, 3)
    assert_same([(np.rint((images + 1) * 127.5).astype(np.uint8), labels) for images, labels in floats], reference)


def test_epochs_and_seeds_are_augmented_differently(folder):
    """The same sample in two epochs, and with two seeds; equal draws would give equal pixels."""
    seen = {}
    for seed in (3, 4):
        for step, (images, labels) in enumerate(steps(folder, 8, seed=seed)):
            for image, label in zip(images, labels):
                seen.setdefault(int(label), []).append((seed, step // 4, image))
    pairs = [(a, b) for some in seen.values() for k, a in enumerate(some) for b in some[:k]]
    assert len(pairs) > 100
    assert sum(np.array_equal(a[2], b[2]) for a, b in pairs) < len(pairs) / 50


def test_augmentation_is_a_choice(folder, reference):
    assert_same(steps(folder, 2, augment=INCEPTION), reference[:2])
    calm = steps(folder, 2, augment=Augmentation(brightness=0.0, saturation=None))
    assert not np.array_equal(calm[0][0], reference[0][0])


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_floats_lie_between_minus_one_and_one(folder, reference, dtype):
    (images, _), *_ = steps(folder, 1, dtype=dtype)
    assert images.dtype == dtype.as_numpy_dtype
    tolerance = 1e-6 if dtype == tf.float32 else 2**-8
    np.testing.assert_allclose(images.astype(np.float32), reference[0][0] / 127.5 - 1, atol=tolerance)


def evaluate(folder, workers, **options):
    options = {"image_size": 16, "batch_size": 8, **options}
    datasets = [evaluation_dataset(folder, shard=(k, workers), **options) for k in range(workers)]
    return [[(images.numpy(), labels.numpy()) for images, labels in dataset] for dataset in datasets]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_evaluation_takes_every_sample_once(folder, workers):
    found = evaluate(folder, workers)
    assert {len(batches) for batches in found} == {-(-COUNT // (8 * workers))}
    labels = np.concatenate([labels for batches in found for _, labels in batches])
    images = np.concatenate([images for batches in found for images, _ in batches])
    np.testing.assert_array_equal(labels[labels >= 0], np.arange(COUNT))
    assert set(labels[COUNT:]) <= {-1}
    single = np.concatenate([images for images, _ in evaluate(folder, 1)[0]])
    np.testing.assert_array_equal(images[:COUNT], single[:COUNT])


def test_evaluation_geometries(folder):
    crop, squash = (evaluate(folder, 1, geometry=name)[0][0][0] for name in ("crop", "squash"))
    assert not np.array_equal(crop, squash)


@pytest.fixture
def broken(tmp_path):
    """Samples 5 (text), 6 (cut short) and 36 (empty) are no images."""
    images = list(IMAGES)
    images[5], images[6], images[36] = b"text", IMAGES[6][:200], b""
    write_shards(tmp_path, "train", images)
    return write_shards(tmp_path, "validation", images, shards=1)


def test_bad_images_are_replaced_by_the_next_good_ones(broken, reference, tmp_path):
    listed = tmp_path / "run/bad_images.txt"
    options = {"bad_images": listed, "bad_image_ratio": 0.1}
    found = steps(broken, 14, **options)
    replaced = {5: 7, 6: 7, 36: 0}
    for (images, labels), (good_images, good_labels) in zip(found, reference):
        np.testing.assert_array_equal(labels, [replaced.get(label, label) for label in good_labels])
        kept = ~np.isin(good_labels, list(replaced))
        np.testing.assert_array_equal(images[kept], good_images[kept])
    lines = dict(line.split("\t") for line in listed.read_text().splitlines())
    assert sorted(lines) == [f"train-0000{a}-of-00003 record {b}" for a, b in ((0, 5), (0, 6), (2, 11))]
    assert lines["train-00000-of-00003 record 5"] == "not an image file"
    assert lines["train-00002-of-00003 record 11"] == "it has no bytes"
    assert_same(steps(broken, 4, start=10, threads=3, **options), found[10:])
    parts = [steps(broken, 14, batch_size=4, shard=(k, 2), **options) for k in range(2)]
    assert_same([tuple(map(np.concatenate, zip(*step))) for step in zip(*parts)], found)
    assert len(listed.read_text().splitlines()) == 3


def test_too_many_bad_images_stop_the_run(broken, tmp_path):
    # Chunks are decoded side by side: the second and the third may be found before the run has stopped.
    with pytest.raises(UserError, match=r"[23] of 37 images cannot be decoded, more than the tolerated share"):
        with readable_errors():
            steps(broken, 14, bad_images=tmp_path / "bad.txt", bad_image_ratio=0.01)


def test_a_row_of_bad_images_stops_the_run(tmp_path):
    write_shards(tmp_path, "train", [b"text"] * 40)
    with pytest.raises(UserError, match="32 images in a row cannot be decoded, first train-0000"):
        with readable_errors():
            steps(tmp_path, 1, bad_images=tmp_path / "bad.txt", bad_image_ratio=1.0)


def test_evaluation_with_bad_images_keeps_its_count(broken, tmp_path):
    (batches,) = evaluate(broken, 1, bad_images=tmp_path / "bad.txt", bad_image_ratio=0.5)
    labels = np.concatenate([labels for _, labels in batches])
    assert (labels >= 0).sum() == COUNT
    assert labels[[5, 6, 36]].tolist() == [7, 7, 0]
    assert set(labels[COUNT:]) == {-1}


def test_other_errors_pass_through_unchanged():
    with pytest.raises(tf.errors.InvalidArgumentError):
        with readable_errors():
            tf.io.decode_jpeg(b"text")


def test_subset(tmp_path):
    write_shards(tmp_path, "other", IMAGES)
    assert steps(tmp_path, 1, subset="other/other")[0][1].tolist() == permutation(COUNT, 3, 0)[:8].tolist()


def test_bad_images_of_training_do_not_count_as_those_of_validation(broken, tmp_path):
    """Both are listed in one file, and the smaller set's share must not be used up by the larger one's."""
    listed = tmp_path / "bad.txt"
    listed.write_text("".join(f"train-00000-of-00003 record {number}\tnot an image file\n" for number in range(30)))
    evaluate(broken, 1, bad_images=listed, bad_image_ratio=0.5)
    assert len(listed.read_text().splitlines()) > 30
