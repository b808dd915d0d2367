from types import SimpleNamespace

import pytest
import torch

from ema import Ema
from tests.models.tiny import tiny
from training import SwinTraining


def test_the_average_by_its_closed_form():
    """Weights w₁, w₂, … from w₀: dⁿ w₀ + (1 - d) Σ dⁿ⁻ᵏ wₖ."""
    model, decay = tiny(), 0.9
    ema = Ema(model, tiny(), decay)
    name, weight = "layers.0.blocks.0.mlp.fc1.weight", model.blocks[0].mlp.fc1.weight
    expected = weight.detach().double().clone()
    for step in range(5):
        with torch.no_grad():
            weight.add_(0.1 * step)
        ema.update(model)
        expected = decay * expected + (1 - decay) * weight.detach().double()
    assert torch.allclose(ema.average[name].double(), expected, atol=1e-6)
    assert torch.equal(ema.averaged().blocks[0].mlp.fc1.weight, ema.average[name])


def test_several_updates_at_once():
    model = tiny()
    seldom, often = Ema(model, tiny(), 0.9), Ema(model, tiny(), 0.9)
    with torch.no_grad():
        model.norm.weight.add_(1.0)
    seldom.update(model, 3)
    for _ in range(3):
        often.update(model)
    assert torch.allclose(seldom.average["norm.weight"], often.average["norm.weight"], atol=1e-6)


def test_only_parameters_are_averaged_and_in_float32():
    model = tiny().half()
    ema = Ema(model, tiny().half(), 0.999)
    assert ema.average.keys() == dict(model.named_parameters()).keys()
    assert all(value.dtype == torch.float32 for value in ema.average.values())
    index = ema.network.blocks[0].attn.relative_position_index.clone()
    before = ema.average["norm.weight"].clone()
    with torch.no_grad():
        model.norm.weight.add_(0.25)
    ema.update(model)
    moved = ema.average["norm.weight"] - before
    assert moved.numpy() == pytest.approx(0.25e-3, rel=1e-2)  # less than float16 can tell from 1
    assert ema.averaged().norm.weight.dtype == torch.float16
    assert torch.equal(ema.network.blocks[0].attn.relative_position_index, index)


def test_it_is_renewed_every_so_many_steps():
    """With 2 updates per step, every 3 steps: what 6 updates amount to, from the weights as they are then."""
    taken = []
    run = SimpleNamespace(
        ema=SimpleNamespace(update=lambda model, updates: taken.append((model, updates))),
        network="weights",
        options=SimpleNamespace(ema_every=3),
        program=SimpleNamespace(device_iterations=2),
    )
    for step in range(1, 8):
        SwinTraining.after_step(run, step)
    assert taken == [("weights", 6), ("weights", 6)]
