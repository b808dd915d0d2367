from __future__ import annotations

import pytest
import torch

import poptorch_host as poptorch
from poptorch_host.saving import load

from .classifier import Model, X, Y, make, steps


def test_hyperparameters_are_a_snapshot():
    model, optimizer, executor = make(lr=0.0)
    start = model.layer.weight.detach().clone()
    optimizer.param_groups[0]["lr"] = 1.0
    executor(X, Y)
    assert torch.equal(model.layer.weight, start)  # wrapped with a rate of 0
    executor.setOptimizer(optimizer)
    optimizer.param_groups[0]["lr"] = 0.0
    executor(X, Y)
    assert (model.layer.weight - start).abs().max() > 0.5


def test_a_constant_cannot_change():
    model = Model()
    executor = poptorch.trainingModel(model, None, poptorch.optim.AdamW(model.parameters(), lr=0.1))
    executor(X, Y)
    with pytest.raises(poptorch.Error, match="betas"):
        executor.setOptimizer(poptorch.optim.AdamW(model.parameters(), lr=0.1, betas=(0.5, 0.5)))


def test_a_scheduler_needs_no_optimizer_step():
    _, optimizer, executor = make()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    executor(X, Y)
    scheduler.step()  # warnings are errors here
    executor.setOptimizer(optimizer)
    assert scheduler.get_last_lr() == [pytest.approx(0.01)]


def test_unknown_optimizers_and_amsgrad_are_refused_and_leave_the_model_unwrapped():
    model = Model()
    with pytest.raises(AssertionError, match="Adagrad"):
        poptorch.trainingModel(model, None, torch.optim.Adagrad(model.parameters()))
    with pytest.raises(ValueError, match="amsgrad"):
        poptorch.trainingModel(model, None, torch.optim.Adam(model.parameters(), amsgrad=True))
    assert type(model) is Model


@pytest.mark.parametrize("half", [False, True])
def test_a_resumed_program_equals_one_that_never_stopped(half):
    def start():
        model = Model(dropout=0.25)
        return make(
            model.half() if half else model,
            poptorch.Options().randomSeed(7),
            first_order_momentum_accum_type=torch.float32,
        )

    x = X.half() if half else X
    model, _, executor = start()
    for _ in range(6):
        executor(x, Y)
    other, optimizer, first = start()
    for _ in range(3):
        first(x, Y)
    saved = {name: value.clone() for name, value in other.state_dict().items()}
    state, random_state = optimizer.state_dict(), first.rng_state
    assert all(isinstance(word, int) for word in random_state)
    resumed, new_optimizer, second = start()
    second.load_state_dict(saved)
    new_optimizer.load_state_dict(state)
    second.rng_state = random_state
    for _ in range(3):
        second(x, Y)
    for mine, theirs in zip(resumed.parameters(), model.parameters()):
        assert torch.equal(mine, theirs)
    masters, expected = second._program.weights.masters, executor._program.weights.masters
    assert bool(masters) is half
    assert all(torch.equal(masters[name], expected[name]) for name in masters)


def test_state_loaded_after_compiling_counts_too():
    _, optimizer, first = make()
    steps(first, 3)
    state = optimizer.state_dict()
    _, new_optimizer, second = make()
    second(X, Y)
    new_optimizer.load_state_dict(state)
    assert new_optimizer.state_dict()["ipu_state"]["Step___layer.weight"] == 3


def test_a_new_optimizer_object_takes_over():
    model, optimizer, executor = make()
    steps(executor, 2)
    replacement = poptorch.optim.AdamW(model.parameters(), lr=0.2)
    executor.setOptimizer(replacement)
    steps(executor, 1)
    assert replacement.state_dict()["ipu_state"]["Step___layer.bias"] == 3
    assert optimizer.state_dict()["ipu_state"]["Step___layer.bias"] == 2


def test_device_randomness_is_its_own():
    def outputs(seed):
        _, _, executor = make(Model(0.5), poptorch.Options().randomSeed(seed))
        torch.manual_seed(seed)
        executor(X, Y)
        host = torch.rand(3)
        return executor(X, Y)[0], host

    torch.manual_seed(3)
    untouched = torch.rand(3)
    first, host = outputs(3)
    assert torch.equal(host, untouched)
    assert torch.equal(first, outputs(3)[0])
    assert not torch.equal(first, outputs(4)[0])


def test_random_state_before_compiling_is_an_error_to_read():
    _, _, executor = make()
    with pytest.raises(poptorch.Error, match="compiled"):
        _ = executor.rng_state


def double(options):
    options.deviceIterations(2)


@pytest.mark.parametrize("half", [False, True])
def test_a_saved_executor_goes_on_where_it_was(tmp_path, half):
    x = X.half() if half else X
    model = Model(0.25)
    _, _, executor = make(model.half() if half else model, poptorch.Options().randomSeed(2))
    for _ in range(3):
        executor(x, Y)
    executor.save(tmp_path / "program.poptorch")
    loaded = load(tmp_path / "program.poptorch")
    assert loaded.isCompiled()
    for _ in range(2):
        assert torch.equal(loaded(x, Y)[0], executor(x, Y)[0])
    assert type(loaded.model).__name__ == "PoptorchModel"


def test_exporting_needs_no_step_and_options_can_be_edited(tmp_path):
    model = Model()
    executor = poptorch.inferenceModel(model)
    with pytest.raises(poptorch.Error, match="compiled"):
        executor.save(tmp_path / "early")
    executor.compileAndExport(tmp_path / "late", X, Y)
    loaded = load(tmp_path / "late", edit_opts_fn=double)
    assert loaded(X, Y)[1].shape == (2,)
    assert torch.equal(loaded(X, Y)[0], executor(X, Y)[0])


def test_files_of_other_versions_are_refused(tmp_path, monkeypatch):
    executor = poptorch.inferenceModel(Model())
    executor.compileAndExport(tmp_path / "program", X, Y)
    monkeypatch.setattr("poptorch_host.saving._VERSIONS", {"torch": "0"})
    with pytest.raises(poptorch.Error, match="saved with"):
        load(tmp_path / "program")


@pytest.mark.parametrize("compiled", [False, True])
def test_batch_normalisation_in_half_resumes_bit_for_bit(compiled):
    """Its weights and statistics are float32 on the device and float16 in the model's state."""

    class Normalised(Model):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(3)

        def forward(self, x, y, scale=1.0):
            return super().forward(self.norm(x), y, scale)

    def batch(step):
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        return x.half(), Y

    def train(executor, steps):
        for step in steps:
            executor(*batch(step))

    model, optimizer, executor = make(Normalised().half(), lr=1e-3)
    train(executor, range(3))
    saved = {name: value.clone() for name, value in model.state_dict().items()}
    state = optimizer.state_dict()
    train(executor, range(3, 6))
    _, new_optimizer, second = make(Normalised().half(), lr=1e-3)
    if compiled:
        second.compile(*batch(0))
    second.load_state_dict(saved)
    new_optimizer.load_state_dict(state)
    train(second, range(3, 6))
    finer, expected = second._program.weights.finer, executor._program.weights.finer
    assert {"norm.weight", "norm.running_mean", "norm.running_var"} <= finer.keys()
    assert all(torch.equal(finer[name], expected[name]) for name in finer)


def test_a_loaded_state_is_not_kept_twice():
    _, optimizer, executor = make()
    steps(executor, 2)
    state = optimizer.state_dict()
    _, early, second = make()
    early.load_state_dict(state)
    second.compile(X, Y)
    assert early._ipu_state is None
    early.load_state_dict(state)
    assert early._ipu_state is None
    assert early.state_dict()["ipu_state"].keys() == state["ipu_state"].keys()
