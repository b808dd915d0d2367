import math

import pytest
import torch
from torch import nn

from ipu.evaluation import Evaluator, count
from ipu.program import Program
from run.signals import StopOnSignal


def test_counts_by_hand():
    logits = torch.tensor([[5.0, 0, 0, 0, 0, 0, 0], [1.0, 2, 3, 4, 5, 6, 7], [0.0, 1, 0, 0, 0, 0, 0]])
    samples, loss, top1, top5 = count(logits, torch.tensor([0, 1, -1]))
    assert (samples, top1, top5) == (2, 1, 1)
    expected = math.log(math.exp(5) + 6) - 5 + math.log(sum(math.exp(x) for x in range(1, 8))) - 2
    assert loss == pytest.approx(expected, rel=1e-6)


class Images:
    """29 'images' whose every pixel is their label, which Guess reads off; sample 7 is mislabelled."""

    classes = [str(label) for label in range(6)]

    def __len__(self):
        return 29

    def sample(self, epoch, index):
        return torch.full((3, 2, 2), float(index % 6)), torch.tensor((index + (index == 7)) % 6)

    def check_bad_images(self):
        self.checked = True


class Guess(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, images):
        return self.scale * nn.functional.one_hot(images[:, 0, 0, 0].long(), 6).to(images.dtype)


@pytest.mark.parametrize("micro_batch_size", [1, 4, 64])
def test_every_sample_counts_once_whatever_the_batch(micro_batch_size):
    given = Program(micro_batch_size=micro_batch_size, workers=0)
    model = Guess().train()
    before = torch.random.get_rng_state()
    images = Images()
    score = Evaluator(given, model, images)()
    assert images.checked
    assert score.samples == 29
    assert score.top1 == pytest.approx(28 / 29)
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_evaluation_is_given_up_on_request():
    class Asking(Images):
        stop = StopOnSignal()
        read = 0

        def sample(self, epoch, index):
            self.read += 1
            self.stop.requested = self.read == 3
            return super().sample(epoch, index)

    images = Asking()
    given = Program(micro_batch_size=1, workers=0)
    assert Evaluator(given, Guess(), images, images.stop)() is None
    assert images.read < 29
