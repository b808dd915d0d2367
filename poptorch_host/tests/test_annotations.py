"""Blocks and the stages they make, and checkpoints."""

import threading

import pytest
import torch
from torch import nn

from poptorch_host.annotations import (
    BeginBlock,
    Block,
    BlockFunction,
    isRunningOnIpu,
    recomputationCheckpoint,
    removeBlocks,
    running_on_ipu,
    stage_count,
    trace_blocks,
)
from poptorch_host.enums import AutoStage
from poptorch_host.execution import (
    ParallelPhasedExecution,
    Phase,
    PipelinedExecution,
    SerialPhasedExecution,
    ShardedExecution,
    Stage,
)


def layers(*ipu_ids):
    return nn.Sequential(*(BeginBlock(nn.Identity(), f"B{k}", ipu_id=i) for k, i in enumerate(ipu_ids)))


def test_blocks_are_recorded_in_executed_order():
    model = layers(0, 2, 1)
    model.add_module("repeated", model[1])
    with trace_blocks() as ipus:
        model(torch.ones(1))
    assert ipus == [0, 2, 1, 2]
    assert [(b.user_id, b.asked_ipu) for b in ipus.blocks] == [("B0", 0), ("B1", 2), ("B2", 1), ("B1", 2)]


def test_begin_block_returns_the_module_and_computes_the_same():
    layer = nn.Linear(2, 2)
    state = list(layer.state_dict())
    x = torch.rand(3, 2)
    before = layer(x)
    assert BeginBlock(layer, ipu_id=1) is layer
    assert torch.equal(layer(x), before)
    assert list(layer.state_dict()) == state
    assert "ipu_id=1" in repr(next(iter(layer._forward_pre_hooks.values())))


def test_begin_block_wraps_functions():
    def double(x, factor=2):
        """Multiply."""
        return factor * x

    wrapped = BeginBlock(double, ipu_id=3)
    assert wrapped is not double
    assert wrapped.__doc__ == "Multiply."
    with trace_blocks() as ipus:
        assert wrapped(2, factor=3) == 6
    assert ipus == [3]


def test_blocks_are_inert_outside_a_trace_and_in_other_threads():
    model = layers(0, 1)
    with trace_blocks() as ipus:
        thread = threading.Thread(target=model, args=(torch.ones(1),))
        thread.start()
        thread.join()
    model(torch.ones(1))
    assert ipus == []


def test_traces_nest():
    model = layers(1)
    with trace_blocks() as outer:
        with trace_blocks() as inner:
            model(torch.ones(1))
        assert (inner, outer) == ([1], [])
        model(torch.ones(1))
    assert outer == [1]


def test_block_and_block_function():
    @BlockFunction("F", ipu_id=2)
    def function(x):
        return x + 1

    def forward(x):
        with Block("A", ipu_id=1):
            x = x * 2
        return function(x)

    with trace_blocks() as ipus:
        Block.useAutoId()
        assert forward(3) == 7
    assert [b.user_id for b in ipus.blocks] == ["A", "F"]
    assert ipus == [1, 2]


def test_remove_blocks_leaves_other_hooks():
    model = layers(0, 1)
    calls = []
    model[0].register_forward_pre_hook(lambda *_: calls.append(1))
    removeBlocks(model)
    with trace_blocks() as ipus:
        model(torch.ones(1))
    assert (ipus, calls) == ([], [1])
    BeginBlock(model[0], ipu_id=1)  # free again


# IPU of each block in executed order, forward stages
@pytest.mark.parametrize(
    ("ipu_ids", "stages"),
    [
        ([], 1),
        ([0], 1),
        ([1], 2),
        ([0, 1, 2, 3], 4),
        ([0, 0, 1, 1], 2),
        ([0, 1, 0, 1], 4),
        ([0, 1, 2, 3, 0, 1, 2, 3], 8),  # MAE on four IPUs
        ([3, 3, 0], 3),
    ],
)
def test_stage_count(ipu_ids, stages):
    assert stage_count(ipu_ids) == stages


def trace(strategy, *blocks):
    with trace_blocks(strategy) as ipus:
        for user_id, ipu_id in blocks:
            with Block(user_id, ipu_id):
                pass
    return list(ipus)


def test_same_as_ipu_needs_an_ipu():
    with pytest.raises(AssertionError, match="SameAsIpu needs an ipu_id, block A"):
        trace(PipelinedExecution(AutoStage.SameAsIpu), ("A", None))


@pytest.mark.parametrize(
    ("strategy", "ipus"),
    [
        (PipelinedExecution("A", "B", "C"), [0, 1, 2, 0]),
        (PipelinedExecution(["A", "B"], "C"), [0, 0, 1, 0]),
        (PipelinedExecution(Stage("A").ipu(3), Stage("B", "C")), [3, 1, 1, 3]),
        (ShardedExecution("C", "B", "A"), [2, 1, 0, 2]),
        (PipelinedExecution(AutoStage.AutoIncrement), [1, 2, 3, 1]),
        (SerialPhasedExecution("A", [Stage("B").ipu(5), Stage("C")]), [0, 5, 2, 0]),
        (ParallelPhasedExecution(Phase("A", "B"), Phase("C")), [0, 0, 1, 0]),
    ],
)
def test_strategies_place_blocks_without_an_ipu(strategy, ipus):
    assert trace(strategy, ("A", None), ("B", None), ("C", None), ("A", None)) == ipus


def test_a_block_of_its_own_ipu_keeps_it_unless_the_stage_names_one():
    assert trace(PipelinedExecution("A", Stage("B").ipu(1)), ("A", 7), ("B", 7)) == [7, 1]
    assert trace(PipelinedExecution(AutoStage.AutoIncrement), ("A", 0), ("B", 3)) == [0, 3]


def test_an_unlisted_block_is_refused():
    with pytest.raises(AssertionError, match="Unknown block D"):
        trace(PipelinedExecution("A"), ("D", 0))


def test_unnamed_blocks_are_numbered_once():
    a, b = BeginBlock(nn.Identity()), BeginBlock(nn.Identity())
    with trace_blocks(PipelinedExecution(AutoStage.AutoIncrement)) as ipus:
        for layer in (a, b, a):
            layer(torch.ones(1))
    assert [block.user_id for block in ipus.blocks] == ["0", "1", "0"]
    assert ipus == [1, 2, 1]


def test_stages_and_phases_can_be_looked_up():
    strategy = SerialPhasedExecution(Phase(Stage("A"), Stage("B")), "C")
    strategy.phase(0).ipus(2, 4)
    assert strategy.stage("B") is strategy.phase(0).stage(1)
    assert trace(strategy, ("A", None), ("B", None), ("C", None)) == [2, 4, 2]
    with pytest.raises(AssertionError, match="2 stages but 1 IPUs"):
        strategy.phase(0).ipus(1)
    assert strategy.useSeparateBackwardPhase() is strategy
    assert ParallelPhasedExecution("A").sendTensorsOffChipAfterFwd().stage("A").blocks == ("A",)


def test_only_pipelines_check_their_stages():
    assert PipelinedExecution().checks_stages
    assert not ShardedExecution().checks_stages
    assert not SerialPhasedExecution("A").checks_stages


def test_is_running_on_ipu():
    assert not isRunningOnIpu()
    with running_on_ipu():
        assert isRunningOnIpu()
    with trace_blocks():
        assert isRunningOnIpu()
    assert not isRunningOnIpu()


def test_recomputation_checkpoint_keeps_values_and_containers():
    a, b = torch.rand(2), torch.rand(3, requires_grad=True)
    assert recomputationCheckpoint(a) is a
    for container in (list, tuple):
        out = recomputationCheckpoint(container([a, b]))
        assert type(out) is container
        assert [x is y for x, y in zip(out, (a, b))] == [True, True]
    assert recomputationCheckpoint(a, b) == (a, b)
