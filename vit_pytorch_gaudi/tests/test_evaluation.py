import math

import pytest
import torch
from torch import nn

from device import Device
from evaluation import Evaluator, count
from options import parse_options
from run import distributed
from run.signals import StopOnSignal

CPU = Device(torch.device("cpu"), "eager", "test")


def test_counts_by_hand():
    logits = torch.tensor([[5.0, 0, 0, 0, 0, 0, 0], [1.0, 2, 3, 4, 5, 6, 7], [0.0, 1, 0, 0, 0, 0, 0]])
    samples, top1, top5, loss = count(logits, torch.tensor([0, 1, -1])).tolist()
    assert (samples, top1, top5) == (2, 1, 1)
    expected = math.log(math.exp(5) + 6) - 5 + math.log(sum(math.exp(x) for x in range(1, 8))) - 2
    assert loss == pytest.approx(expected, rel=1e-6)


def test_fewer_classes_than_five():
    assert count(torch.tensor([[1.0, 2.0]]), torch.tensor([0])).tolist()[:3] == [1, 0, 1]


class Images:
    """29 'images' whose every pixel is their label, which Guess reads off; sample 7 is mislabelled."""

    classes = [str(label) for label in range(6)]

    def __len__(self):
        return 29

    def sample(self, epoch, index):
        return torch.full((3, 2, 2), index % 6, dtype=torch.uint8), torch.tensor((index + (index == 7)) % 6)

    def check_bad_images(self):
        self.checked = True


class Guess(nn.Module):
    def forward(self, images):
        return 10.0 * nn.functional.one_hot(images[:, 0, 0, 0].long(), 6).float()


def evaluator(images, batch, stop=None):
    flags = ["--name", "x", "--dataset", "folder", "--eval_batch_size", str(batch), "--dataloader_workers", "0"]
    model = Guess().train()
    return Evaluator(parse_options(flags), model, model, images, CPU, stop)


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_every_sample_counts_once_whatever_the_batch(batch):
    before = torch.random.get_rng_state()
    images = Images()
    evaluate = evaluator(images, batch)
    score = evaluate()
    assert images.checked
    assert score.samples == 29
    assert score.top1 == pytest.approx(28 / 29)
    assert 28 / 29 <= score.top5 <= 1
    assert evaluate.model.training
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_processes_share_the_samples_exactly(monkeypatch, processes):
    sums = []
    monkeypatch.setattr(distributed, "world_size", lambda: processes)
    monkeypatch.setattr(distributed, "all_reduce_sum", lambda values: sums.append(values) or [29, *values[1:]])
    for rank in range(processes):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        evaluator(Images(), 4)()
    samples, top1, *_ = (sum(column) for column in zip(*sums))
    assert (samples, top1) == (29, 28)


def test_an_evaluation_is_given_up_on_request():
    class Asking(Images):
        stop = StopOnSignal()
        read = 0

        def sample(self, epoch, index):
            self.read += 1
            self.stop.requested = self.read == 3
            return super().sample(epoch, index)

    images = Asking()
    assert evaluator(images, 1, images.stop)() is None
    assert images.read < 29
