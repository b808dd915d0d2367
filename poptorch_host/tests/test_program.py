from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

import poptorch_host as poptorch

from .classifier import Model, X, Y, make, steps


def test_anchored_gradients_are_those_of_the_loss():
    options = poptorch.Options()
    options.anchorTensor("g", "Gradient___layer.weight")
    options.anchorTensor("w", "layer.weight")
    model, _, executor = make(options=options, loss_scaling=4.0)
    reference = Model()
    reference(X, Y)[1].backward()
    executor.compile(X, Y)
    assert {"layer.weight", "Gradient___layer.bias"} <= set(executor.getTensorNames())
    with pytest.raises(AssertionError, match="before reading"):
        executor.getAnchoredTensor("g")
    executor(X, Y)
    torch.testing.assert_close(executor.getAnchoredTensor("g"), 4 * reference.layer.weight.grad)
    assert torch.equal(executor.getAnchoredTensor("w"), model.layer.weight)


def test_anchors_follow_output_modes_over_device_iterations():
    options = poptorch.Options().deviceIterations(2)
    options.anchorTensor("all", "Gradient___layer.bias", poptorch.OutputMode.All)
    options.anchorTensor("sum", "Gradient___layer.bias", poptorch.OutputMode.Sum)
    options.anchorTensor("last", "Gradient___layer.bias", poptorch.OutputMode.EveryN, 2)
    _, _, executor = make(options=options)
    executor(X, Y)
    every = executor.getAnchoredTensor("all").view(2, 2)
    torch.testing.assert_close(executor.getAnchoredTensor("sum"), every.sum(0))
    assert torch.equal(executor.getAnchoredTensor("last"), every[1])


def test_unknown_anchors_do_not_compile():
    options = poptorch.Options()
    options.anchorTensor("g", "Gradient___nothing")
    with pytest.raises(poptorch.Error, match="Gradient___nothing"):
        make(options=options)[2](X, Y)


def test_synthetic_data_needs_no_inputs_and_gives_no_outputs():
    options = poptorch.Options()
    options.enableSyntheticData(2)
    model, _, executor = make(options=options)
    before = model.layer.weight.detach().clone()
    out, loss = executor(torch.full((4, 3), torch.nan), Y)
    assert out.shape == (4, 2)
    assert out.abs().sum() == loss == 0
    assert model.layer.weight.isfinite().all()
    assert not torch.equal(model.layer.weight, before)


class Staged(Model):
    def __init__(self, *ipus):
        super().__init__()
        self.blocks = nn.Sequential(*(poptorch.BeginBlock(nn.Identity(), ipu_id=ipu) for ipu in ipus))

    def forward(self, x, y):
        return super().forward(self.blocks(x), y)


def staged(ipus, accumulation=1, iterations=1, training=True, strategy=None, rounded=False):
    options = poptorch.Options().deviceIterations(iterations).autoRoundNumIPUs(rounded)
    options.Training.gradientAccumulation(accumulation)
    options.setExecutionStrategy(strategy or poptorch.PipelinedExecution(poptorch.AutoStage.SameAsIpu))
    wrap = poptorch.trainingModel if training else poptorch.inferenceModel
    rows = accumulation * iterations
    wrap(Staged(*ipus), options).compile(X[:1].repeat(rows, 1), Y[:1].repeat(rows))


def test_pipelines_need_micro_batches_for_every_stage():
    staged([0, 1], accumulation=3)
    with pytest.raises(poptorch.Error, match=r"3 stages.*gradient accumulation, not 2"):
        staged([0, 1], accumulation=2)
    with pytest.raises(poptorch.Error, match="5 stages"):
        staged([0, 1, 0], accumulation=3)
    staged([0, 1], iterations=2, training=False)
    with pytest.raises(poptorch.Error, match="device iterations, not 1"):
        staged([0, 1], training=False)
    staged([0, 1], strategy=poptorch.ShardedExecution(poptorch.AutoStage.SameAsIpu))


def test_the_number_of_ipus_is_a_power_of_two_or_rounded():
    with pytest.raises(poptorch.Error, match="autoRoundNumIPUs"):
        staged([0, 1, 2], accumulation=5)
    staged([0, 1, 2], accumulation=5, rounded=True)


def test_factories_make_tensors_on_the_executors_device(monkeypatch):
    class Factory(Model):
        def forward(self, x, y):
            made = [torch.ones(2), torch.arange(3), torch.tensor([1.0]), torch.zeros(2, device="cpu")]
            assert [t.device.type for t in made] == ["meta", "meta", "meta", "cpu"]
            return x

    from poptorch_host.forward import ForwardMode

    with ForwardMode(torch.device("meta"), exact=False):
        Factory()(X, Y)


def test_compiled_by_torch_gives_the_same_numbers(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda module, _real=torch.compile: _real(module, backend="aot_eager"))
    plain = make(options=poptorch.Options().randomSeed(0))
    monkeypatch.setenv("POPTORCH_HOST_COMPILE", "1")
    compiled = make(options=poptorch.Options().randomSeed(0))
    torch._dynamo.utils.counters.clear()
    for a, b in zip(steps(plain[2], 5), steps(compiled[2], 5)):
        assert a == pytest.approx(b, rel=1e-5)
    torch.testing.assert_close(plain[0].layer.weight.detach(), compiled[0].layer.weight.detach(), rtol=1e-5, atol=1e-6)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]


def test_an_interrupted_call_leaves_no_gradients_behind():
    class Fragile(Model):
        broken = False

        def forward(self, x, y):
            if Fragile.broken and x.sum() > 0:
                raise KeyboardInterrupt
            return super().forward(x, y)

    def run(interrupted):
        options = poptorch.Options()
        options.Training.gradientAccumulation(2)
        model, _, executor = make(Fragile(), options)
        executor(X, Y)
        if interrupted:
            Fragile.broken = True
            with pytest.raises(KeyboardInterrupt):
                executor(X, Y)  # the second micro-batch
            Fragile.broken = False
        executor(X, Y)
        return model.layer.weight.detach()

    assert torch.equal(run(False), run(True))


def test_outputs_of_a_class_that_hides_its_tensors_are_refused():
    @dataclasses.dataclass
    class Output:
        logits: torch.Tensor

    class Hiding(Model):
        def forward(self, x, y, scale=1.0):
            return Output(super().forward(x, y, scale)[0])

    with pytest.raises(poptorch.Error, match="can't return a Output"):
        poptorch.inferenceModel(Hiding()).compile(X, Y)
