"""Images of pretraining with what decides their masks."""

import pickle

import pytest
import torch

from dataset.create import MaskedImages, masked_data
from dataset.generated import GeneratedImages
from dataset.images import ImageDataset
from models.masking import one_hot
from models.reconstruction import mask_noise
from options import PretrainOptions


def as_it_is(image, _generator):
    return image


def images(seed=0):
    return ImageDataset(GeneratedImages(20, 8, 1, 0, "train"), as_it_is, seed=seed)


def test_keys_depend_on_seed_epoch_and_sample_alone():
    masked = MaskedImages(images(), None, torch.float32)
    keys = {(epoch, index): int(masked.sample(epoch, index)[1]) for epoch in range(3) for index in range(20)}
    assert len(set(keys.values())) == 60
    assert all(0 <= key < 2**62 for key in keys.values())
    copy = pickle.loads(pickle.dumps(masked))
    assert all(int(copy.sample(*place)[1]) == key for place, key in keys.items())
    assert int(MaskedImages(images(seed=1), None, torch.float32).sample(0, 0)[1]) != keys[0, 0]
    assert masked.sample(0, 0)[1].dtype == torch.int64
    assert len(masked) == 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.half])
def test_matrices_are_what_the_device_would_draw_from_the_key(dtype):
    by_key, by_matrix = MaskedImages(images(), None, dtype), MaskedImages(images(), (16, 4), dtype)
    for index in range(5):
        (image, key), (same, matrix) = by_key.sample(2, index), by_matrix.sample(2, index)
        assert torch.equal(image, same)
        assert matrix.dtype == dtype
        assert torch.equal(matrix, one_hot(mask_noise(key[None], 16), 4, dtype)[0])


def test_bad_images_are_counted():
    assert MaskedImages(images(), None, torch.float32).check_bad_images() == 0


def test_training_is_cropped_at_random_and_evaluation_is_not(digits, tmp_path):
    options = PretrainOptions(config="test", data_path=str(digits), input_size=16, pipeline=[1, 1])
    train = masked_data(options, "train", str(tmp_path / "bad.txt"))
    held_out = masked_data(options, "validation", str(tmp_path / "bad.txt"), (16, 4))
    assert (len(train), len(held_out)) == (1437, 360)
    assert not torch.equal(train.sample(0, 3)[0], train.sample(1, 3)[0])
    assert torch.equal(held_out.sample(0, 3)[0], held_out.sample(1, 3)[0])
    assert held_out.sample(0, 3)[1].shape == (16, 4)
