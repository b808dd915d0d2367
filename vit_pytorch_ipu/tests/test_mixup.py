import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dataset.mixup import mixup_coefficients
from ipu_options import training_options
from models.supervised import Supervised
from optimization import create_optimizer
from options import PretrainOptions
from poptorch_host.backend import poptorch


def test_coefficients_have_the_moments_of_the_beta_distribution():
    drawn = mixup_coefficients(3, 0, 200, 500, alpha=0.5).double()
    # Beta(a, a): mean 1/2, variance 1 / (4 (2a + 1))
    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.005)
    assert float(drawn.var()) == pytest.approx(1 / 8, rel=0.02)
    assert float(mixup_coefficients(3, 0, 200, 500, alpha=4.0).double().var()) == pytest.approx(1 / 36, rel=0.02)
    assert drawn.min() >= 0
    assert drawn.max() <= 1


def test_they_depend_on_seed_and_update_alone():
    whole = mixup_coefficients(3, 0, 6, 4, alpha=0.5)
    assert torch.equal(mixup_coefficients(3, 2, 4, 4, alpha=0.5), whole[8:])  # a resumed run, or other iterations
    assert len(set(whole.tolist())) == 24
    assert not torch.equal(mixup_coefficients(4, 0, 6, 4, alpha=0.5), whole)
    rows = whole.reshape(6, 4)
    for index in (0, 1):  # of two processes, each has half of every update
        mine = mixup_coefficients(3, 0, 6, 4, alpha=0.5, shard=(index, 2))
        assert torch.equal(mine.reshape(6, 2), rows[:, 2 * index : 2 * index + 2])


class Linear(nn.Linear):
    """Logits of flattened images."""

    def forward(self, images):
        return super().forward(images.flatten(1))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Linear(12, 3)


def softmax_loss(logits, label):
    return float(-logits.log_softmax(-1)[label])


def sigmoid_loss(logits, label):
    """Of one sample: each class is a yes-or-no question of its own."""
    signs = torch.full_like(logits, -1.0)
    signs[label] = 1.0
    return float(-F.logsigmoid(signs * logits).sum())


@torch.no_grad()
@pytest.mark.parametrize(("name", "one"), [("CELoss", softmax_loss), ("SigmoidCELoss", sigmoid_loss)])
def test_loss_and_hits_are_mixed_as_the_images_are(model, name, one):
    images, labels, share = torch.randn(4, 3, 2, 2), torch.tensor([0, 2, 1, 1]), 0.3
    loss, correct = Supervised(model, name)(images, labels, torch.tensor([share]))
    expected_loss = expected_correct = 0.0
    for i in range(4):  # the sample before the first is the last
        logits = model((share * images[i] + (1 - share) * images[i - 1])[None])[0]
        own, other = int(labels[i]), int(labels[i - 1])
        expected_loss += (share * one(logits, own) + (1 - share) * one(logits, other)) / 4
        best = int(logits.argmax())
        expected_correct += share * (best == own) + (1 - share) * (best == other)
    assert float(loss) == pytest.approx(expected_loss, rel=1e-5)
    assert float(correct) == pytest.approx(expected_correct, rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["CELoss", "SigmoidCELoss"])
def test_a_coefficient_of_one_is_no_mixup(model, name):
    images, labels = torch.randn(4, 3, 2, 2), torch.tensor([0, 2, 1, 1])
    plain, mixed = Supervised(model, name)(images, labels), Supervised(model, name)(images, labels, torch.ones(1))
    assert [float(value) for value in mixed] == pytest.approx([float(value) for value in plain], rel=1e-6)


@torch.no_grad()
def test_uint8_images_are_normalised_before_they_are_mixed(model):
    levels = torch.randint(0, 256, (4, 3, 2, 2), dtype=torch.uint8)
    labels, mix = torch.tensor([0, 2, 1, 1]), torch.tensor([0.3])
    mixed = Supervised(model)(levels, labels, mix)
    floats = Supervised(model)((levels.float() / 255 - 0.5) / 0.5, labels, mix)
    assert float(mixed[0]) == pytest.approx(float(floats[0]), rel=1e-5)


@pytest.mark.parametrize(("iterations", "accumulation", "replicas"), [(2, 3, 2), (1, 1, 1)])
def test_the_device_gives_each_micro_batch_its_own_coefficient(model, iterations, accumulation, replicas):
    given = PretrainOptions(
        config="test",
        device_iterations=iterations,
        gradient_accumulation=accumulation,
        replication_factor=replicas,
        layers_per_ipu=[1],
        learning_rate=0.0,
    )
    micro_batches = iterations * accumulation * replicas
    images, labels = torch.randn(4 * micro_batches, 3, 2, 2), torch.randint(0, 3, (4 * micro_batches,))
    mix = mixup_coefficients(1, 0, iterations, accumulation * replicas, alpha=0.5)
    assert mix.shape == (micro_batches,)
    supervised = Supervised(model)
    parts = zip(images.split(4), labels.split(4), mix.split(1))
    with torch.no_grad():
        expected = [[float(value) for value in supervised(*part)] for part in parts]
    program = poptorch.trainingModel(supervised.train(), training_options(given), create_optimizer(supervised, given))
    losses, correct = program(images, labels, mix)
    assert losses.reshape(-1).numpy() == pytest.approx(np.array([loss for loss, _ in expected]), rel=1e-5)
    assert correct.reshape(-1).numpy() == pytest.approx(np.array([hits for _, hits in expected]), rel=1e-5)
