"""Remaps around modules: where they are placed, what they ask for, and that they change no bit."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import remapping
from common import custom_op
from remapping import load_library, remap, remap_boundaries, remap_input, remap_output
from run.errors import UserError

APP = Path(__file__).resolve().parent.parent
ROOT = APP.parent


@pytest.fixture
def asked(monkeypatch):
    """The attributes of every remap that a program asks PopTorch for."""
    calls = []
    original = remapping.poptorch.custom_op

    def custom_op(inputs, name, domain, version, example_outputs, attributes):
        assert (name, domain, version, len(inputs)) == ("RemapCE", "ai.graphcore", 1, 1)
        calls.append(attributes)
        return original(inputs, name, domain, version, example_outputs, attributes)

    monkeypatch.setattr(remapping.poptorch, "custom_op", custom_op)
    return calls


def blocks(count):
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.GELU()) for _ in range(count)))


def loss_and_gradients(model, x):
    loss = model(x).square().sum()
    return [loss, *torch.autograd.grad(loss, [x, *model.parameters()])]


def test_attributes(asked):
    x = torch.rand(2, 8)
    assert torch.equal(remap(x), x)
    remap(x, 16, bwd_grain_size=4, fwd_clone_layout=True, bwd_after_matmul=True, debug_str="qkv")
    usual = {"fwd_grain_size": 8, "bwd_grain_size": 0, "fwd_clone_layout": 0, "bwd_clone_layout": 0}
    usual = {**usual, "fwd_after_matmul": 0, "bwd_after_matmul": 0, "debug_str": "remap"}
    other = {"fwd_grain_size": 16, "bwd_grain_size": 4, "fwd_clone_layout": 1, "bwd_after_matmul": 1}
    assert asked == [usual, {**usual, **other, "debug_str": "qkv"}]
    assert {type(value) for attributes in asked for value in attributes.values()} == {int, str}


def test_one_remap_at_each_boundary_and_not_a_bit_of_difference(asked):
    x = torch.rand(3, 8, requires_grad=True)
    plain = loss_and_gradients(blocks(4), x)
    model = blocks(4)
    keys = list(model.state_dict())
    handles = remap_boundaries(model, grain_size=16)
    remapped = loss_and_gradients(model, x)
    assert [attributes["fwd_grain_size"] for attributes in asked] == [16] * 5
    assert all(torch.equal(a, b) for a, b in zip(plain, remapped))
    assert list(model.state_dict()) == keys
    for handle in handles:
        handle.remove()
    model(x)
    assert len(asked) == 5
    assert remap_boundaries(nn.Sequential()) == []


def test_input_and_output_of_a_module(asked, monkeypatch):
    """The first input and the result are replaced by what the op returns; other inputs stay."""
    monkeypatch.setattr(remapping, "remap", lambda tensor, by: tensor * by)
    module = nn.Bilinear(2, 3, 1)
    x, y = torch.rand(4, 2), torch.rand(4, 3)
    expected = module(2 * x, y) * 5
    remap_input(module, by=2)
    remap_output(module, by=5)
    assert torch.equal(module(x, y), expected)


def test_a_wrong_attribute_shows_at_once():
    with pytest.raises(TypeError, match="grain"):
        remap_output(nn.Identity(), grain=8)


def test_outside_of_a_compiled_model_the_sdk_is_not_asked(asked, monkeypatch):
    """Its custom_op would return zeros there."""
    monkeypatch.setattr(remapping, "is_host", False)
    running = [False, True]
    monkeypatch.setattr(remapping.poptorch, "isRunningOnIpu", lambda: running.pop(0))
    x = torch.rand(2)
    assert remap(x) is x
    assert asked == []
    remap(x)
    assert len(asked) == 1


def test_library_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"no\.so does not exist: build the remap op"):
        load_library(tmp_path / "no.so")
    (tmp_path / "no.so").write_bytes(b"no")
    with pytest.raises(UserError, match=r"no\.so cannot be loaded"):
        load_library(tmp_path / "no.so")
    with pytest.raises(UserError, match="has no Makefile"):
        load_library(tmp_path)


@pytest.mark.parametrize(("is_host", "target"), [(True, "host"), (False, "ipu")])
def test_sources_are_built_for_the_device(tmp_path, monkeypatch, is_host, target):
    seen = []
    monkeypatch.setattr(remapping, "is_host", is_host)
    monkeypatch.setattr(custom_op, "build", lambda *arguments: seen.append(arguments) or tmp_path / "made.so")
    monkeypatch.setattr(custom_op, "load", seen.append)
    load_library(tmp_path)
    assert seen == [(tmp_path, target), tmp_path / "made.so"]


@pytest.fixture
def house(tmp_path):
    """The app's remap folder beside the op's sources, where a test may run make; the build is the repository's."""
    folder = tmp_path / APP.name / "remap"
    folder.mkdir(parents=True)
    shutil.copy2(APP / "remap/Makefile", folder)
    for name in ("common", "remap_custom_op"):
        (tmp_path / name).symlink_to(ROOT / name)
    return folder


def make(folder, *words, **variables):
    kept = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "POPLAR_SDK_ENABLED")}
    command = ["make", "--no-print-directory", *words]
    return subprocess.run(command, cwd=folder, env={**kept, **variables}, capture_output=True, text=True, timeout=300)


def test_documented_build_and_training_through_the_real_operator(house):
    """make clean, make, and a model between loaded remaps: same loss and gradients, and the operator was run."""
    for command in (["clean"], [f"PYTHON={sys.executable}"]):
        done = make(house, *command)
        assert done.returncode == 0, done.stderr
    library = house / "remap_ops.so"
    code = f"""
import sys
from pathlib import Path
sys.path[:0] = [{str(APP)!r}, {str(APP / "tests")!r}]
import torch
from test_remapping import blocks, loss_and_gradients, remapping
x = torch.rand(3, 8, requires_grad=True)
plain = loss_and_gradients(blocks(4), x)
remapping.load_library(Path({str(library)!r}))
model = blocks(4)
remapping.remap_boundaries(model, fwd_after_matmul=True)
with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
    remapped = loss_and_gradients(model, x)
runs = sum(event.name == "remap::RemapCE" for event in profile.events())
print(all(torch.equal(a, b) for a, b in zip(plain, remapped)), runs)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "True 10\n", done.stderr  # 5 forward and 5 backward
    assert make(house, "clean").returncode == 0
    assert not library.exists()


def test_build_with_a_python_without_torch(house):
    done = make(house, f"PYTHON={sys.executable} -S")
    assert done.returncode == 2
    assert "has no torch: activate the environment of requirements.txt" in done.stderr.splitlines()[0]
