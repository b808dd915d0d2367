"""Masks from keys, and the loss around a masked autoencoder."""

import pytest
import torch
from scipy import stats

from models import create_model
from models.masking import one_hot, select
from models.reconstruction import Reconstruction, mask_noise
from models.supervised import normalised

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
SIZES = {"patch_size": 8, "width": 16, "depth": 1, "heads": 2, "mlp_width": 32}
SIZES.update(decoder_width=16, decoder_depth=1, decoder_heads=2, decoder_mlp_width=32)


@pytest.fixture
def model():
    torch.manual_seed(0)
    autoencoder = create_model("mae_vit_base_patch16", image_size=32, norm_pix_loss=True, **SIZES)
    return Reconstruction(autoencoder, MEAN, STD)


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8), torch.tensor([5, 2**61 - 1, 2**40 + 5])


def scrambled(x):
    """MurmurHash3's 32-bit finaliser on Python's integers."""
    x ^= x >> 16
    x = x * 0x85EBCA6B % 2**32
    x ^= x >> 13
    x = x * 0xC2B2AE35 % 2**32
    return x ^ (x >> 16)


def test_noise_is_the_generator_that_it_says():
    keys = [0, 1, 12345, 2**32 - 1, 2**32, 2**61 - 1]
    found = mask_noise(torch.tensor(keys), 7)
    assert found.dtype == torch.float32
    for row, key in enumerate(keys):
        for patch in range(7):
            low, high = (key + (patch + 1) * 0x9E3779B9) % 2**32, key >> 32
            assert float(found[row, patch]) == (scrambled(scrambled(low) ^ high) >> 8) / 2**24


@pytest.mark.parametrize("keys", ["in a row", "hashed"])
def test_noise_is_uniform_and_independent(keys):
    torch.manual_seed(2)
    drawn = torch.arange(4096) if keys == "in a row" else torch.randint(0, 2**62, (4096,))
    noise = mask_noise(drawn, 49)
    assert noise.min() >= 0
    assert noise.max() < 1
    assert stats.kstest(noise.flatten().numpy(), "uniform").pvalue > 1e-3
    correlation = torch.corrcoef(noise.T) - torch.eye(49)
    assert correlation.abs().max() < 5 / 4096**0.5  # of 1,176 pairs of patches
    mask = select(noise, 12).mask
    assert stats.chisquare(mask.sum(0).numpy()).pvalue > 1e-3  # each patch as often as the others
    together = float((mask[:, 0] * mask[:, 1]).mean())
    assert together == pytest.approx(37 / 49 * 36 / 48, abs=0.03)


def test_noise_of_a_sample_does_not_depend_on_its_batch():
    keys = torch.randint(0, 2**62, (9,))
    whole = mask_noise(keys, 20)
    assert torch.equal(whole[4:6], mask_noise(keys[4:6], 20))
    assert torch.equal(whole[:, :11], mask_noise(keys, 11))
    assert len(whole.unique(dim=0)) == 9


def test_training_gives_the_models_loss_and_evaluation_each_images(model, batch):
    images, keys = batch
    with torch.no_grad():
        pixels = normalised(images, MEAN, STD)
        expected, _, _ = model.model(pixels, mask_noise(keys, 16))
        assert float(model.train()(images, keys)) == pytest.approx(float(expected), rel=1e-5)
        each = model.eval()(images, keys)
        alone = [float(model.model(pixels[i : i + 1], mask_noise(keys[i : i + 1], 16))[0]) for i in range(3)]
    assert each.tolist() == pytest.approx(alone, rel=1e-5)
    assert float(each.mean()) == pytest.approx(float(expected), rel=1e-5)
    assert len(set(alone)) == 3


@pytest.mark.parametrize("training", [True, False])
def test_matrices_do_what_keys_do(model, batch, training):
    images, keys = batch
    model.train(training)
    matrices = one_hot(mask_noise(keys, 16), model.model.config.visible)
    results = []
    for masks in (keys, matrices):
        model.zero_grad()
        loss = model(images, masks)
        loss.sum().backward()
        results.append([loss.detach(), *(weight.grad.clone() for weight in model.parameters())])
    for by_key, by_matrix in zip(*results):
        assert torch.allclose(by_key, by_matrix, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("as_matrices", [False, True])
def test_half(model, batch, as_matrices):
    images, keys = batch
    masks = one_hot(mask_noise(keys, 16), model.model.config.visible, torch.half) if as_matrices else keys
    with torch.no_grad():
        expected = float(model(images, keys))
        model.half()
        loss, each = model(images, masks), model.eval()(images, masks)
    assert loss.dtype == each.dtype == torch.float32
    assert float(loss) == pytest.approx(expected, rel=5e-3)
    assert float(each.mean()) == pytest.approx(expected, rel=5e-3)
