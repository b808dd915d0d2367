"""What the device gets with mixing: rows by seed and update, for this process, in the order of the loader's batch."""

from types import SimpleNamespace

import pytest
import torch

from dataset.mixing import COLUMNS, Mixing, draw_rows
from ipu_options import create_program, training_options
from models.supervised import Supervised
from optimization import create_optimizer
from options import read_training
from poptorch_host.backend import poptorch
from run import distributed
from tests.models.tiny import tiny
from training import SwinTraining

GIVEN = (
    "--mixup 0.8 --cutmix 1.0 --gradient-accumulation-steps 3 --replicas 2 --seed 5 --img-size 56 --device-iterations 2"
)


def inputs(step, batch_size=4, **place):
    """Of a run that has only what they depend on."""
    options = read_training(["--cfg", "SWIN_DIGITS", *GIVEN.split(), "--batch-size", str(batch_size)], "")
    program, mixing = create_program(options), Mixing(mixup_alpha=0.8, cutmix_alpha=1.0)
    run = SimpleNamespace(options=options, program=program, mixing=mixing)
    rows = program.samples_per_step // place.get("count", 1)
    images = torch.arange(rows, dtype=torch.uint8)[:, None, None, None].expand(rows, 3, 56, 56)
    return options, SwinTraining.device_inputs(run, step, (images, torch.arange(rows) % 5))


def test_a_step_has_the_rows_of_its_updates():
    options, (_, _, mix) = inputs(step=4)
    expected = [draw_rows(Mixing(0.8, 1.0), 5, update, 6, 4, (56, 56)) for update in (6, 7)]
    assert mix.shape == (48, COLUMNS)
    assert torch.equal(mix, torch.cat(expected))
    assert options.mixes
    assert len({tuple(row) for row in mix.tolist()}) == 12  # one draw per micro-batch


def test_two_processes_have_contiguous_shares_of_each_update(monkeypatch):
    _, (_, _, whole) = inputs(step=2)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        _, (_, _, mine) = inputs(step=2, count=2)
        first, second = whole.reshape(2, 2, 12, COLUMNS)[:, rank]
        assert torch.equal(mine, torch.cat([first, second]))


def test_odd_micro_batches_come_with_their_partners():
    _, (images, labels, _, others, other_labels) = inputs(step=1, batch_size=3)
    assert others[:, 0, 0, 0].tolist() == [index ^ 1 for index in range(36)]
    assert torch.equal(other_labels, labels[[index ^ 1 for index in range(36)]])
    assert images.shape == others.shape


@pytest.mark.parametrize("batch_size", [4, 1])
def test_the_device_mixes_each_micro_batch_by_its_own_rows(batch_size):
    """Losses of PopTorch's program against the same images mixed one by one."""
    options, batch = inputs(step=3, batch_size=batch_size)
    torch.manual_seed(0)
    model = tiny(num_classes=5)
    images = torch.randint(0, 256, batch[0].shape, dtype=torch.uint8)
    labels, mix = batch[1], batch[2]
    rows = len(images)
    size = batch_size if batch_size % 2 == 0 else 2
    partner = [index // size * size + size - 1 - index % size for index in range(rows)]
    assert sorted(partner) == list(range(rows))
    if batch_size == 1:
        batch = (images, labels, mix, images[partner], labels[partner])
    else:
        batch = (images, labels, mix)
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3)))
    pixels = (images / 255 - mean) / std
    mixed = []
    for index in range(rows):
        share, _, top, bottom, left, right = mix[index].tolist()
        one = share * pixels[index] + (1 - share) * pixels[partner[index]]
        box = slice(int(top), int(bottom)), slice(int(left), int(right))
        one[:, box[0], box[1]] = pixels[partner[index]][:, box[0], box[1]]
        mixed.append(one)
    with torch.no_grad():
        logs = model.eval()(torch.stack(mixed)).log_softmax(-1)
    smooth = 0.9 * torch.eye(5) + 0.1 / 5
    targets = mix[:, 1:2] * smooth[labels] + (1 - mix[:, 1:2]) * smooth[labels[partner]]
    expected = -(targets * logs).sum(1).reshape(-1, batch_size).mean(1)

    supervised = Supervised(model.train(), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), 0.1)
    optimizer = create_optimizer(supervised, options)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    options = read_training(
        ["--cfg", "SWIN_DIGITS", *GIVEN.split(), "--batch-size", str(batch_size), "--precision", "32.32"], ""
    )
    losses, _ = poptorch.trainingModel(supervised, training_options(options), optimizer)(*batch)
    assert losses.reshape(-1).numpy() == pytest.approx(expected.numpy(), rel=2e-5)
