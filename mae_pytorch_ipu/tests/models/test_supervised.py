"""Normalisation, mixing, loss and hits on the device against torch's, and against one sample at a time."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.transforms.functional import normalize

from dataset.mixing import partners
from models.supervised import Supervised, mixed, normalised

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NONE = [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]  # the row of a sample that is not mixed


class Linear(nn.Linear):
    """Logits of flattened images."""

    def forward(self, images):
        return super().forward(images.flatten(1))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Linear(3 * 4 * 5, 6)


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.randint(0, 256, (4, 3, 4, 5), dtype=torch.uint8), torch.tensor([0, 5, 2, 2])


def test_pixels_are_normalised_as_torchvision_does(batch):
    images, _ = batch
    expected = normalize(images.float() / 255, MEAN, STD)
    assert torch.allclose(normalised(images, MEAN, STD), expected, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_hits_without_mixing(model, batch, smoothing):
    images, labels = batch
    logits = model(normalize(images.float() / 255, MEAN, STD))
    supervised = Supervised(model, MEAN, STD, smoothing)
    assert torch.allclose(supervised(images), logits, atol=1e-5)
    labels[1] = logits[1].argmax()
    loss, correct = supervised(images, labels)
    assert float(loss) == pytest.approx(float(F.cross_entropy(logits, labels, label_smoothing=smoothing)), rel=1e-5)
    assert float(correct) == float((logits.argmax(1) == labels).sum()) >= 1


@torch.no_grad()
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_of_mixed_labels_is_that_of_soft_targets(model, batch, smoothing):
    images, labels = batch
    share = 0.3
    mix = torch.tensor([[share, share, 0, 0, 0, 0]]).expand(4, -1)
    loss, correct = Supervised(model, MEAN, STD, smoothing)(images, labels, mix)
    hard = F.one_hot(labels, 6) * (1 - smoothing) + smoothing / 6
    targets = share * hard + (1 - share) * hard.flip(0)
    pixels = normalize(images.float() / 255, MEAN, STD)
    logits = model(share * pixels + (1 - share) * pixels.flip(0))
    assert float(loss) == pytest.approx(float(F.cross_entropy(logits, targets)), rel=1e-5)
    best = logits.argmax(1)
    hits = share * (best == labels).float() + (1 - share) * (best == labels.flip(0)).float()
    assert float(correct) == pytest.approx(float(hits.sum()), rel=1e-5)


@torch.no_grad()
def test_every_sample_is_mixed_by_its_own_row(model, batch):
    images, labels = batch
    mix = torch.tensor([NONE, [0.25, 0.25, 0, 0, 0, 0], [1, 0.7, 1, 3, 2, 4], [1, 0.0, 0, 4, 0, 5]])
    pixels = normalize(images.float() / 255, MEAN, STD)
    expected = pixels.clone()
    expected[1] = 0.25 * pixels[1] + 0.75 * pixels[2]
    expected[2, :, 1:3, 2:4] = pixels[1, :, 1:3, 2:4]
    expected[3] = pixels[0]
    found = mixed(pixels, pixels.flip(0), mix)
    assert torch.allclose(found, expected, atol=1e-6)
    logits = model(expected)
    losses = [
        mix[i, 1] * F.cross_entropy(logits[i], labels[i]) + (1 - mix[i, 1]) * F.cross_entropy(logits[i], labels[3 - i])
        for i in range(4)
    ]
    loss, _ = Supervised(model, MEAN, STD)(images, labels, mix)
    assert float(loss) == pytest.approx(float(sum(losses)) / 4, rel=1e-5)


@torch.no_grad()
def test_a_row_without_mixing_changes_nothing(model, batch):
    supervised = Supervised(model, MEAN, STD, 0.1)
    plain, rows = supervised(*batch), supervised(*batch, torch.tensor([NONE] * 4))
    assert all(torch.equal(a, b) for a, b in zip(plain, rows))


@torch.no_grad()
def test_partners_can_be_given(model, batch):
    images, labels = batch
    mix = torch.tensor([[0.3, 0.3, 0, 0, 0, 0], [1, 0.5, 0, 2, 0, 5]] * 2)
    supervised = Supervised(model, MEAN, STD)
    implied = supervised(images, labels, mix)
    given = supervised(images, labels, mix, images.flip(0), labels.flip(0))
    others = supervised(images, labels, mix, partners(images), partners(labels))
    assert [float(value) for value in given] == [float(value) for value in implied]
    assert float(others[0]) != float(implied[0])


def test_weights_in_half_get_half_images_and_a_float32_loss(model, batch):
    images, labels = batch
    mix = torch.tensor([[0.3, 0.3, 0, 0, 0, 0]] * 4)
    expected = float(Supervised(model, MEAN, STD, 0.1)(images, labels, mix)[0].detach())
    loss, correct = Supervised(model.half(), MEAN, STD, 0.1)(images, labels, mix)
    assert loss.dtype == correct.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(expected, rel=5e-3)
    loss.backward()
    assert model.weight.grad.dtype == torch.half
    assert model.weight.grad.isfinite().all()
