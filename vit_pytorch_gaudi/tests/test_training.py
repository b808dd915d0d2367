import copy

import pytest
import torch
import torch.nn.functional as F

import training as training_module
from device import Device
from models import create_model
from options import parse_options
from recipe import derive
from run.errors import UserError
from training import Training

CPU = Device(torch.device("cpu"), "eager", "test")
BATCH = 12


class Accelerator(Device):
    """A device from which nothing should be read between reports."""

    @property
    def is_cpu(self):
        return False


class Stream:
    def sample_ids(self, update):
        return [100 * update + row for row in range(BATCH)]


def small_model(**sizes):
    torch.manual_seed(3)
    return create_model("testing", image_size=16, num_classes=3, width=16, heads=2, mlp_width=32, dropout=0.0, **sizes)


def start(folder, model, *flags, device=CPU):
    given = ["--name", "run", "--output_dir", folder, "--dataset", "folder", "--num_steps", 10, "--warmup_steps", 0]
    given += ["--train_batch_size", BATCH, "--learning_rate", 0.1, *flags]
    options = parse_options(list(map(str, given)))
    return Training(options, derive(options, 100, model, 1, device), model, ["a", "b", "c"], device)


def batches(steps):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (steps, BATCH, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return [(i, torch.randint(0, 3, (BATCH,), generator=generator)) for i in images]


def cut(batch, parts):
    return list(zip(batch[0].chunk(parts), batch[1].chunk(parts)))


def run(training, parts, steps=4):
    return [training.step(n, Stream(), cut(batch, parts)) for n, batch in enumerate(batches(steps), 1)]


def reference(model, limit, steps=4):
    """The same training, written down plainly: SGD with momentum 0.9, norm clipped at `limit`, cosine from 0.01."""
    velocity = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    losses = []
    for number, (images, labels) in enumerate(batches(steps)):
        model.zero_grad()
        loss = F.cross_entropy(model((images.float() / 255 - 0.5) / 0.5), labels)
        loss.backward()
        losses.append(loss.item())
        norm = torch.sqrt(sum(p.grad.square().sum() for p in model.parameters()))
        rate = 0.01 * 0.5 * (1 + torch.cos(torch.tensor(number / 10 * torch.pi)))
        with torch.no_grad():
            for name, p in model.named_parameters():
                velocity[name] = 0.9 * velocity[name] + p.grad * min(1.0, limit / float(norm))
                p -= rate * velocity[name]
    return losses


def assert_same_weights(first, second, tolerance):
    for (name, a), b in zip(first.named_parameters(), second.parameters()):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize("limit", [0.5, 100])  # always and never clipped
@pytest.mark.parametrize("parts", [1, 2, 4, 12])
def test_accumulation_equals_one_big_batch_written_down_plainly(tmp_path, parts, limit):
    model, twin = small_model(), small_model()
    rates = ["--max_grad_norm", limit, "--learning_rate", 0.01]
    training = start(tmp_path, model, "--gradient_accumulation_steps", parts, *rates)
    totals = run(training, parts)
    losses = reference(twin, limit)
    assert [float(t[0]) / parts for t in totals] == pytest.approx(losses, abs=1e-6)
    assert_same_weights(model, twin, 1e-6)


def test_correct_predictions_are_counted(tmp_path):
    model = small_model()
    (batch,) = batches(1)
    expected = (model(batch[0].float() / 127.5 - 1).argmax(1) == batch[1]).sum()
    totals = start(tmp_path, model, "--gradient_accumulation_steps", 3).step(1, Stream(), cut(batch, 3))
    assert totals[1] == expected


def test_nothing_leaks_between_updates(tmp_path):
    model = small_model()
    training = start(tmp_path, model, "--gradient_accumulation_steps", 2)
    run(training, 2, steps=1)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_gradients_are_clipped_to_the_asked_norm(tmp_path):
    moved = {}
    for limit in (0, 0.5, 1e-3):
        model = small_model()
        before = copy.deepcopy(model)
        run(start(tmp_path, model, "--max_grad_norm", limit), 1, steps=1)
        pairs = zip(model.parameters(), before.parameters())
        moved[limit] = float(torch.sqrt(sum((a - b).detach().square().sum() for a, b in pairs)))
    assert moved[1e-3] == pytest.approx(0.1 * 1e-3, rel=1e-3)  # learning rate × norm
    assert moved[0.5] == pytest.approx(0.1 * 0.5, rel=1e-3)
    assert moved[0] > moved[0.5]


def test_a_bad_gradient_is_caught_before_the_weights_change(tmp_path):
    model = small_model()
    training = start(tmp_path, model)
    run(training, 1, steps=2)
    with torch.no_grad():
        model.blocks[0].norm1.bias[0] = float("inf")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match=r"step 3 at learning rate 0\.09\S* is not finite \(samples 200, 201.*…\)"):
        training.step(3, Stream(), cut(batches(1)[0], 1))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_bad_gradient_behind_a_good_loss_is_caught(tmp_path):
    model = small_model()
    model.head.weight.register_hook(lambda gradient: gradient / 0)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match="step 1 at"):
        run(start(tmp_path, model), 1, steps=1)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_on_an_accelerator_it_is_found_when_asked_and_the_first_one_named(tmp_path):
    model = small_model()
    training = start(tmp_path, model, device=Accelerator(torch.device("cpu"), "eager", "test"))
    for number, batch in enumerate(batches(4), 1):
        if number == 2:
            with torch.no_grad():
                model.head.bias[0] = float("nan")
        training.step(number, Stream(), [batch])
        if number == 1:
            training.check(Stream())
    with pytest.raises(UserError, match="step 2 at"):
        training.check(Stream())


def test_autocast_multiplies_in_bfloat16_and_keeps_float32_weights(tmp_path):
    losses, types = {}, set()
    for flag in ("false", "true"):
        model = small_model()
        model.blocks[0].mlp.fc1.register_forward_hook(lambda _, __, output: types.add(output.dtype))
        losses[flag] = [float(t[0]) for t in run(start(tmp_path, model, "--autocast", flag), 1)]
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert types == {torch.float32, torch.bfloat16}
    assert losses["true"] != losses["false"]
    assert losses["true"] == pytest.approx(losses["false"], abs=0.05)


def test_each_process_draws_dropout_of_its_own(tmp_path, monkeypatch):
    seeds = []
    for rank in (0, 1):
        monkeypatch.setattr(training_module.distributed, "rank", lambda rank=rank: rank)
        start(tmp_path, small_model(), "--seed", 7)
        seeds.append(torch.initial_seed())
    assert seeds == [7, 8]


def test_due_steps(tmp_path):
    training = start(tmp_path, small_model(), "--eval_every", 4, "--checkpoint_save_steps", 3)
    assert [step for step in range(1, 11) if training.is_evaluated(step)] == [4, 8, 10]
    assert [step for step in range(1, 11) if training.is_saved(step)] == [3, 6, 9, 10]
