import pickle

import pytest
import torch

from dataset import DataSpec, create_dataset
from run.errors import UserError

SPEC = {"name": "generated", "image_size": 24, "num_classes": 7, "size": 50, "seed": 3}


def test_images_use_the_full_range_and_labels_all_classes():
    data = create_dataset(DataSpec(**SPEC), "train")
    images, labels = zip(*data)
    pixels = torch.stack(images)
    assert pixels.shape == (50, 3, 24, 24)
    assert pixels.dtype == torch.uint8
    counts = torch.bincount(pixels.flatten().long(), minlength=256).double()
    expected = pixels.numel() / 256
    assert ((counts - expected) ** 2 / expected).sum() < 350  # chi-squared, 255 degrees of freedom: mean 255, sd 23
    assert set(torch.stack(labels).tolist()) == set(range(7))
    assert len(data.classes) == 7


def test_images_depend_on_seed_split_and_index_alone():
    first, again = (create_dataset(DataSpec(**SPEC), "train") for _ in range(2))
    validation = create_dataset(DataSpec(**SPEC), "validation")
    reseeded = create_dataset(DataSpec(**dict(SPEC, seed=4)), "train")
    assert torch.equal(first.sample(0, 5)[0], again.sample(9, 5)[0])
    for other in (first[6], validation[5], reseeded[5]):
        assert not torch.equal(first[5][0], other[0])


def test_floats_are_normalised():
    image = create_dataset(DataSpec(**SPEC, dtype="float16"), "train")[0][0]
    assert image.dtype == torch.float16
    assert -1 <= image.min() < -0.9
    assert 0.9 < image.max() <= 1


def test_nothing_is_stored():
    data = create_dataset(DataSpec(**dict(SPEC, size=10**9)), "train")
    assert len(data) == 10**9
    assert len(pickle.dumps(data)) < 2000
    assert data[10**9 - 1][1] == (10**9 - 1) % 7


@pytest.mark.parametrize(("field", "value"), [("size", 0), ("num_classes", None)])
def test_size_and_classes_must_be_given(field, value):
    with pytest.raises(UserError, match=f"data option {field} "):
        DataSpec(**dict(SPEC, **{field: value}))
