"""Where activations are laid out anew: the places, and that nothing changes on a host."""

from pathlib import Path

import pytest
import torch

import remapping
from placement import remap_activations
from tests.models.tiny import images, tiny
from tests.runs import newest, same, weights
from tests.runs import tiny as arguments
from train_swin import main

OP = Path(__file__).resolve().parents[2] / "remap_custom_op"


def test_the_places(monkeypatch):
    entered = []

    def note(tensor, grain_size=8, *, debug_str="", **_):
        entered.append((debug_str, grain_size, tuple(tensor.shape)))
        return tensor

    monkeypatch.setattr(remapping, "remap", note)
    model = tiny(depths=(1, 1), num_heads=(2, 3))
    remap_activations(model)
    model.train()(images())
    names = ["windows", "qkv", "queries", "scores", "weights", "joined", "proj", "mlp", "mlp_out"]
    expected = ["patch_embed"]
    for number in (0, 1):
        expected += [*(f"block{number}_{name}" for name in names), f"block{number}"]
        expected += ["merging0"] if number == 0 else []
    assert [name for name, _, _ in entered] == expected
    assert {name for name, grain, _ in entered if grain == 16} == {
        f"block{number}_{name}" for number in (0, 1) for name in ("windows", "joined")
    }
    shapes = {name: shape for name, _, shape in entered}
    assert shapes["block0_qkv"] == (2, 14, 14, 36)
    assert shapes["block0_scores"] == shapes["block0_weights"] == (2, 8, 49, 49)  # 4 windows of 2 heads
    assert shapes["merging0"] == (2, 7, 7, 24)


@pytest.mark.parametrize("mode", [True, False], ids=["training", "inference"])
def test_it_changes_no_bit(mode):
    remapping.load_library(OP)
    plain, remapped = tiny().train(mode), tiny().train(mode)
    remap_activations(remapped)
    outputs = [model(images()) for model in (plain, remapped)]
    assert torch.equal(*outputs)
    for output in outputs:
        output.square().sum().backward()
    for first, second in zip(plain.parameters(), remapped.parameters()):
        assert torch.equal(first.grad, second.grad)


def test_a_run_with_it_ends_in_the_same_weights(digits, tmp_path):
    for name in ("true", "false"):
        given = ["--training-steps", 3, "--evaluate", "false", "--remap", name]
        main(arguments(digits, tmp_path / name, *given))
    assert newest(tmp_path / "true").name == "step-3"
    assert same(weights(tmp_path / "true"), weights(tmp_path / "false"))
