from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

import poptorch_host as poptorch


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.decoder = nn.Linear(3, 3, bias=False)
        self.decoder.weight = self.encoder.weight
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.calls += 1
        out = self.decoder(self.norm(self.encoder(x)))
        return out, poptorch.identity_loss((out - x).square(), "mean")


X = torch.linspace(-1, 1, 12).view(4, 3)


@pytest.fixture
def trained():
    """A model after one step, nothing read since, and its executor."""
    model = Model()
    executor = poptorch.trainingModel(model, None, torch.optim.SGD(model.parameters(), lr=0.5))
    executor(X)
    return model, executor


def expected_state(steps=1):
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        model(X)[1].backward()
        optimizer.step()
    return model


READS = {
    "state_dict": lambda m: m.state_dict()["encoder.weight"],
    "attribute": lambda m: m.encoder.weight.detach(),
    "data": lambda m: m.encoder.weight.data,
    "parameters": lambda m: next(iter(m.parameters())).clone().detach(),
    "named_parameters": lambda m: dict(m.named_parameters())["encoder.weight"] * 1.0,
    "numpy": lambda m: torch.from_numpy(m.encoder.weight.detach().numpy()),
    "deepcopy": lambda m: copy.deepcopy(m).encoder.weight,
    "vector": lambda m: nn.utils.parameters_to_vector([m.encoder.weight]).view(3, 3),
    "stack": lambda m: torch.stack([m.encoder.weight])[0],
}


@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
def test_any_read_fetches_the_devices_weights(trained, read):
    torch.testing.assert_close(read(trained[0]).detach(), expected_state().encoder.weight.detach())


def test_a_tensor_held_from_before_fetches_too():
    model = Model()
    held = model.encoder.weight
    executor = poptorch.trainingModel(model, None, torch.optim.SGD(model.parameters(), lr=0.5))
    executor(X)
    torch.testing.assert_close(held.detach(), expected_state().encoder.weight.detach())


def test_running_on_the_host_uses_the_devices_weights(trained):
    model, _ = trained
    torch.testing.assert_close(model(X)[1], expected_state()(X)[1])


def test_buffers_follow(trained):
    model, _ = trained
    expected = expected_state()
    torch.testing.assert_close(model.norm.running_var.detach(), expected.norm.running_var)
    assert model.calls.item() == 1  # compiling ran the model once more and left nothing behind
    assert model.norm.num_batches_tracked.item() == 1


def test_metadata_does_not_fetch(trained):
    model, executor = trained
    weight = model.encoder.weight
    assert (weight.shape, weight.dtype, weight.requires_grad, weight.numel()) == ((3, 3), torch.float32, True, 9)
    assert executor._wrapping.stale
    weight.sum()
    assert not executor._wrapping.stale


def test_tied_parameters_stay_tied(trained):
    model, executor = trained
    assert model.decoder.weight is model.encoder.weight
    module = executor._program.module
    assert module.decoder.weight is module.encoder.weight
    loaded = Model()
    loaded.load_state_dict(model.state_dict())
    assert torch.equal(loaded.decoder.weight, model.encoder.weight)


def test_copies_and_files_hold_plain_tensors(trained):
    model, _ = trained
    twin = copy.deepcopy(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    read = torch.load(file, weights_only=False)
    for plain in (twin, read):
        assert type(plain) is Model
        assert {type(p) for p in plain.parameters()} == {nn.Parameter}
        assert {type(b) for b in plain.buffers()} == {torch.Tensor}
        assert plain.decoder.weight is plain.encoder.weight
        assert plain.encoder.weight.requires_grad
    assert {type(t) for t in model.state_dict().values()} == {torch.Tensor}
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=True)["encoder.weight"], model.encoder.weight)
    twin.encoder.weight.data.zero_()
    assert model.encoder.weight.abs().sum() > 0


def test_a_wrapped_model_has_a_derived_class_and_cannot_be_wrapped_again(trained):
    model, executor = trained
    assert type(model).__name__ == "PoptorchModel"
    assert isinstance(model, Model)
    with pytest.raises(RuntimeError, match="wrapped already"):
        poptorch.trainingModel(model)
    with pytest.raises(RuntimeError, match="wrapped already"):
        poptorch.trainingModel(nn.Sequential(model))
    executor.destroy()
    assert type(model) is Model
    assert {type(p) for p in model.parameters()} == {nn.Parameter}
    torch.testing.assert_close(model.encoder.weight, expected_state().encoder.weight)
    poptorch.trainingModel(model)


def test_destroy_before_compiling_does_nothing():
    model = Model()
    executor = poptorch.trainingModel(model)
    executor.destroy()
    assert type(model).__name__ == "PoptorchModel"


def test_host_changes_are_seen_only_after_copying(trained):
    model, executor = trained
    with torch.no_grad():
        model.encoder.weight.zero_()
        model.encoder.bias.zero_()
    assert executor(X)[0].abs().sum() > 0
    with torch.no_grad():
        model.encoder.weight.zero_()
        model.encoder.bias.zero_()
    executor.copyWeightsToDevice()
    assert executor(X)[0].abs().sum() == 0


def test_loading_through_the_executor_reaches_the_device(trained):
    _, executor = trained
    zeros = {name: torch.zeros_like(value) for name, value in executor.state_dict().items()}
    executor.load_state_dict(zeros)
    assert executor(X)[0].abs().sum() == 0
    partial = executor.load_state_dict({"encoder.bias": torch.ones(3)}, strict=False)
    assert "encoder.weight" in partial.missing_keys


def test_loading_between_wrapping_and_compiling_counts():
    model = Model()
    executor = poptorch.trainingModel(model)
    executor.load_state_dict({name: torch.zeros_like(value) for name, value in model.state_dict().items()})
    assert executor(X)[0].abs().sum() == 0


def test_an_inference_executor_of_the_same_model_takes_newer_weights(trained):
    model, executor = trained
    inference = poptorch.inferenceModel(model)
    for steps in (1, 2):
        torch.testing.assert_close(inference(X)[0], expected_state(steps).eval()(X)[0].detach())
        executor(X)
    executor.load_state_dict({name: torch.zeros_like(value) for name, value in model.state_dict().items()})
    assert inference(X)[0].abs().sum() == 0


def test_an_inference_executor_of_a_part_of_the_model_takes_newer_weights(trained):
    model, executor = trained
    part = poptorch.inferenceModel(model.encoder)
    part(X)
    executor(X)
    torch.testing.assert_close(part(X), expected_state(2).encoder(X).detach())


def test_detaching_fetches_and_attaching_uploads(trained):
    model, executor = trained
    executor.detachFromDevice()
    assert not executor.isAttachedToDevice()
    assert not executor._wrapping.stale
    with torch.no_grad():
        model.encoder.weight.zero_()
        model.encoder.bias.zero_()
    executor.attachToDevice()
    assert executor(X)[0].abs().sum() == 0


def test_frozen_half_weights_and_constants_come_back_unrounded():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([1.0009765625]), requires_grad=False)
            self.scale = nn.Parameter(torch.ones(1))
            self.register_buffer("constant", torch.tensor([1.0009765625]))

        def forward(self, x):
            return poptorch.identity_loss(self.weight * self.constant * x * self.scale, "sum")

    model = Frozen().half()
    poptorch.trainingModel(model)(torch.ones(1, dtype=torch.float16))
    assert model.weight.item() == model.constant.item() == 1.0009765625  # not a bfloat16 number
    assert model.scale.item() != 1


def test_masters_survive_a_round_trip_through_the_host():
    model = nn.Sequential(nn.Linear(2, 2)).half()

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, x):
            return poptorch.identity_loss(self.net(x).square(), "mean")

    executor = poptorch.trainingModel(Loss(), None, torch.optim.SGD(model.parameters(), lr=1e-3))
    executor(torch.ones(1, 2, dtype=torch.float16))
    before = {name: m.clone() for name, m in executor._program.weights.masters.items()}
    executor.copyWeightsToHost()
    executor.copyWeightsToDevice()
    after = executor._program.weights.masters
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any((m != m.half()).any() for m in after.values())


def test_fetching_leaves_frozen_weights_alone():
    model = Model()
    model.norm.requires_grad_(False)
    executor = poptorch.trainingModel(model, None, torch.optim.SGD(model.parameters(), lr=0.5))
    executor(X)
    model.norm.weight.fill_(7.0)
    executor(X)
    assert model.norm.weight.tolist() == [7.0] * 3


def test_inference_sees_what_a_destroyed_executor_has_trained():
    model = Model()
    training = poptorch.trainingModel(model, None, torch.optim.SGD(model.parameters(), lr=0.1))
    inference = poptorch.inferenceModel(model)
    before = inference(X)[0]
    training(X)
    training.destroy()
    after = inference(X)[0]
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, model.eval()(X)[0].detach())
