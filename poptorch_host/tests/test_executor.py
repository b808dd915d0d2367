from __future__ import annotations

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F

import poptorch_host as poptorch

from .classifier import Model, X, Y, make, steps


def test_a_program_learns():
    _, _, executor = make()
    losses = steps(executor, 30)
    assert losses[-1] < 0.5 * losses[0]


def test_the_default_optimizer_is_sgd_with_a_hundredth():
    model = Model()
    reference = Model()
    poptorch.trainingModel(model)(X, Y)
    reference(X, Y)[1].backward()
    torch.optim.SGD(reference.parameters(), lr=0.01).step()
    torch.testing.assert_close(model.layer.weight.detach(), reference.layer.weight.detach())


def test_compiling_changes_nothing_and_a_second_time_warns(caplog, capsys):
    twin = steps(make(Model(0.5), poptorch.Options().randomSeed(1))[2], 3)
    model, _, executor = make(Model(0.5), poptorch.Options().randomSeed(1))
    before = model.layer.weight.detach().clone()
    assert not executor.isCompiled()
    executor.compile(X, Y)
    assert executor.isCompiled()
    assert executor.isAttachedToDevice()
    assert torch.equal(model.layer.weight, before)
    assert executor.rng_state == torch.Generator().manual_seed(1).get_state().view(torch.int64).tolist()
    executor.compile(X, Y)
    assert "compiled already" in capsys.readouterr().err
    assert steps(executor, 3) == twin


@pytest.mark.parametrize(
    "change",
    [
        lambda: ((X[:2], Y[:2]), {}),
        lambda: ((X.double(), Y), {}),
        lambda: ((X, Y.int()), {}),
        lambda: ((X, Y, 2.0), {}),
        lambda: ((X, Y), {"scale": 2.0}),
        lambda: (((X, X), Y), {}),
        lambda: ((X, None), {}),
    ],
)
def test_the_first_call_fixes_the_arguments(change):
    _, _, executor = make()
    executor(X, Y)
    args, kwargs = change()
    with pytest.raises(poptorch.Error, match="mismatch"):
        executor(*args, **kwargs)


def test_constants_may_be_given_again_and_arguments_by_name():
    _, _, executor = make()
    executor(X, Y, 2.0)
    executor(X, y=Y, scale=2.0)


def test_wrong_arguments():
    _, _, executor = make()
    with pytest.raises(poptorch.Error, match="'y'"):
        executor(X)
    for args, kwargs in (((X, Y, 1.0, 2.0), {}), ((X, Y), {"z": 1}), ((X, Y), {"x": X})):
        with pytest.raises(AssertionError):
            executor(*args, **kwargs)


def test_options_are_frozen_and_copied():
    options = poptorch.Options()
    model = Model()
    executor = poptorch.trainingModel(model, options)
    with pytest.raises(AttributeError, match="frozen"):
        options.deviceIterations(2)
    assert executor.options.output_mode == poptorch.OutputMode.Final
    assert options.output_mode == poptorch.OutputMode.Default
    with pytest.raises(poptorch.Error, match="Options"):
        poptorch.inferenceModel(model, {"deviceIterations": 2})


def test_inference_refuses_accumulation():
    options = poptorch.Options()
    options.Training.gradientAccumulation(2)
    with pytest.raises(poptorch.Error, match="accumulat"):
        poptorch.inferenceModel(Model(), options)


def test_training_keeps_the_modes_of_the_model_and_inference_evaluates():
    model = Model(0.5)
    model.drop.eval()
    out, _ = make(model)[2](X, Y)
    torch.testing.assert_close(out, F.linear(X, Model().layer.weight, Model().layer.bias).detach())
    training = Model(0.5).train()
    out, _ = poptorch.inferenceModel(training)(X, Y)
    torch.testing.assert_close(out, F.linear(X, training.layer.weight, training.layer.bias).detach())
    assert training.training


def test_the_top_levels_own_mode_is_that_of_wrapping():
    class Functional(Model):
        def forward(self, x, y):
            out = F.dropout(self.layer(x), 1.0, self.training)
            return out, F.cross_entropy(out, y)

    model = Functional().train()
    executor = poptorch.trainingModel(model)
    executor.eval()  # acts on the user's model and shared submodules only
    assert executor(X, Y)[0].abs().sum() == 0


def test_unknown_attributes_come_from_the_users_model():
    model, _, executor = make()
    assert executor.note == "mine"
    assert executor.layer is model.layer
    assert executor.eval() is model
    assert not model.training
    assert executor.model is model
    with pytest.raises(AttributeError, match="missing"):
        _ = executor.missing


def test_what_needs_a_program_is_refused_before_compiling():
    _, _, executor = make()
    for name in ("copyWeightsToHost", "copyWeightsToDevice", "attachToDevice", "detachFromDevice", "getLatency"):
        with pytest.raises(poptorch.Error, match=name):
            getattr(executor, name)()
    with pytest.raises(AssertionError):
        executor.getTensorNames()
    with pytest.raises(AssertionError):
        executor.getAnchoredTensor("g")


def test_calls_without_a_device_are_refused():
    options = poptorch.Options().connectionType(poptorch.ConnectionType.Never)
    with pytest.raises(AssertionError, match="offline"):
        poptorch.inferenceModel(Model(), options)(X, Y)


def test_latency_is_that_of_the_last_call():
    _, _, executor = make()
    executor(X, Y)
    low, high, mean = executor.getLatency()
    assert 0 < low == high == mean < 60
    with pytest.raises(poptorch.Error, match="cycle"):
        executor.cycleCount()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("compiled", [False, True])
def test_training_does_not_depend_on_the_callers_gradient_mode(context, compiled):
    expected = steps(make()[2], 3)
    _, _, executor = make()
    if compiled:
        executor.compile(X, Y)
    with context():
        seen = steps(executor, 2)
    assert [*seen, *steps(executor, 1)] == expected


def test_calls_leave_no_graph_and_no_objects_behind():
    made = []

    class Watched(Model):
        def forward(self, x, y, scale=1.0):
            out, loss = super().forward(x, y, scale)
            made.append(weakref.ref(out))
            return out * 2, loss

    _, _, executor = make(Watched())
    executor.compile(X, Y)
    assert made[-1]() is None
    executor(X, Y)
    assert made[-1]() is None
    steps(executor, 10)
    gc.collect()
    before = len(gc.get_objects())
    steps(executor, 50)
    gc.collect()
    assert len(gc.get_objects()) <= before + 50  # the watching itself: one reference a call


def test_names_that_appear_later_are_mentioned_once(capsys):
    for relaxed, expected in ((False, 1), (True, 0)):
        _, optimizer, executor = make(options=poptorch.Options().relaxOptimizerAttributesChecks(relaxed))
        torch.optim.lr_scheduler.StepLR(optimizer, 1)  # adds initial_lr
        optimizer.remark = 1
        executor.setOptimizer(optimizer)
        executor.setOptimizer(optimizer)
        assert capsys.readouterr().err.count(": initial_lr, remark\n") == expected
