"""The torch operator: the identity to the last bit, forward and backward, by way of the tiles."""

import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from common import custom_op

LAYOUTS = {
    "usual": {},
    "coarse": {"fwd_grain_size": 64, "bwd_grain_size": 5},
    "after a matmul": {"fwd_after_matmul": 1, "bwd_after_matmul": 1, "fwd_grain_size": 3},
    "one way": {"fwd_clone_layout": 1, "bwd_after_matmul": 1},
    "other way": {"bwd_clone_layout": 1, "bwd_grain_size": 1},
    "few tiles": {"tiles": 3},
    "one tile": {"tiles": 1},
}
BITS = {torch.float16: torch.int16, torch.bfloat16: torch.int16, torch.float32: torch.int32, torch.float64: torch.int64}
anywhere = pytest.mark.parametrize("attributes", LAYOUTS.values(), ids=LAYOUTS)


@anywhere
@pytest.mark.parametrize("dtype", BITS, ids=str)
def test_every_bit_comes_back(remap, dtype, attributes):
    """All bit patterns of 16-bit numbers, random ones of wider types: NaN payloads and subnormal numbers too."""
    bits = torch.arange(-(2**15), 2**15).to(BITS[dtype])
    if bits.element_size() > 2:
        bits = bits * torch.randint(1, 2**15, bits.shape, dtype=bits.dtype)
    data = bits.view(4, -1, 32).view(dtype)
    result = remap.RemapCE(data, **attributes)
    assert torch.equal(result.view(BITS[dtype]), bits.view(4, -1, 32))
    assert result.data_ptr() != data.data_ptr()


@pytest.mark.parametrize("shape", [(), (0,), (0, 16), (1,), (7, 11, 13), (2, 3, 24)], ids=str)
def test_any_shape(remap, shape):
    data = torch.randn(shape)
    assert torch.equal(remap.RemapCE(data), data)


def test_strided_input(remap):
    data = torch.randn(6, 16, 4).transpose(0, 2)[:, ::2]
    for attributes in LAYOUTS.values():
        if not attributes.get("fwd_after_matmul") and not attributes.get("bwd_after_matmul"):
            result = remap.RemapCE(data, **attributes)
            assert torch.equal(result, data)
            assert result.is_contiguous()


@anywhere
def test_gradients(remap, attributes):
    data = torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: remap.RemapCE(x, **attributes), data)
    assert torch.autograd.gradgradcheck(lambda x: remap.RemapCE(x, **attributes), data)


class Calls(TorchDispatchMode):
    """The attributes, in the order of the schema, of every remap that is executed."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.remap.RemapCE.default:
            names = [argument.name for argument in function._schema.arguments[1:]]
            defaults = {argument.name: argument.default_value for argument in function._schema.arguments[1:]}
            self.seen.append([{**defaults, **(kwargs or {})}[name] for name in names])
        return function(*args, **(kwargs or {}))


def test_backward_takes_the_attributes_of_backward(remap):
    data = torch.randn(2, 16, requires_grad=True)
    with Calls() as calls:
        first = remap.RemapCE(data, fwd_grain_size=16, bwd_grain_size=4, fwd_clone_layout=1, debug_str="a", tiles=5)
        second = remap.RemapCE(first, bwd_after_matmul=1)
        second.sum().backward()
    assert calls.seen == [
        [16, 4, 1, 0, 0, 0, "a", 5],
        [8, 0, 0, 0, 0, 1, "remap", 1472],
        [8, 8, 0, 0, 1, 0, "remap", 1472],
        [4, 16, 0, 1, 0, 0, "a", 5],
    ]


@anywhere
def test_torch_compile_traces_it(remap, attributes):
    def function(x):
        return remap.RemapCE(x * 2, **attributes).sin()

    torch._dynamo.reset()
    plain = torch.randn(2, 3, 8, requires_grad=True)
    traced = plain.detach().clone().requires_grad_()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    function(plain).sum().backward()
    result = compiled(traced)
    result.sum().backward()
    assert torch.equal(result, function(plain))
    assert torch.equal(traced.grad, plain.grad)


def test_torch_library_finds_nothing_wrong(remap):
    """Schema, autograd registration, fake tensors and their shapes, static and dynamic."""
    for attributes in LAYOUTS.values():
        data = torch.randn(2, 4, 8, requires_grad=True)
        torch.library.opcheck(remap.RemapCE.default, (data,), attributes)
    result = remap.RemapCE(torch.empty(3, 5, dtype=torch.float16, device="meta"))
    assert (result.shape, result.dtype, result.device.type) == ((3, 5), torch.float16, "meta")


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("shape", "attributes", "message"),
    [
        ((8,), {"fwd_grain_size": 0}, "fwd_grain_size is 0: give at least 1"),
        ((8,), {"bwd_grain_size": -1}, "bwd_grain_size is -1: give at least 0"),
        ((8,), {"bwd_clone_layout": 2}, "clone_layout and after_matmul are 0 or 1, not 2"),
        ((8, 8), {"fwd_clone_layout": 1, "fwd_after_matmul": 1}, "set one of them"),
        ((8,), {"fwd_after_matmul": 1}, "after_matmul needs 2 dimensions or more, not 1"),
        ((8, 6), {"bwd_after_matmul": 1}, "after_matmul needs a last dimension that 4 divides, not 6"),
        ((8,), {"tiles": 0}, "tiles is 0: give at least 1"),
    ],
)
def test_mistakes(remap, device, shape, attributes, message):
    with pytest.raises(ValueError, match=f'RemapCE "qkv": .*{message}'):
        remap.RemapCE(torch.ones(shape, device=device), debug_str="qkv", **attributes)


def test_only_floating_point(remap):
    with pytest.raises(TypeError, match='RemapCE "remap": Int is no floating-point type'):
        remap.RemapCE(torch.ones(3, dtype=torch.int32))


WRONG = """
    if (tiles_ == 2) return {first_element(tile), std::min(first_element(tile) + capacity(), elements_)};
    if (tiles_ == 3) return {first_element(tile), first_element(tile + 1) + 1};
    if (tiles_ == 4 && tile == 1) return {first_element(tile), first_element(tile)};
    return"""


def test_a_wrong_plan_shows(copy):
    """A row on two tiles and one outside of the tensor are errors; rows without a tile come back as NaN."""
    header = copy / "include/remap/tile_plan.hpp"
    right = "    return {first_element(tile)"
    assert right in header.read_text()
    header.write_text(header.read_text().replace(right, WRONG + right.replace("    return", "")))
    library = custom_op.build(copy, "host")
    code = f"""
import torch
torch.ops.load_library({str(library)!r})
for tiles in (2, 3):
    try:
        torch.ops.remap.RemapCE(torch.ones(3, 8), tiles=tiles)
    except RuntimeError as error:
        print(str(error).splitlines()[0])
print(torch.ops.remap.RemapCE(torch.ones(5, 8), tiles=4).isnan().all(1).tolist())
print(torch.ops.remap.RemapCE(torch.ones(5, 8), tiles=5).sum().item())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.splitlines() == [
        "remap: tiles share elements",
        "remap: tile 0 is mapped outside of the tensor",
        "[False, True, False, False, False]",
        "40.0",
    ]
