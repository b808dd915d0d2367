"""Nested state through JSON and safetensors and back."""

from __future__ import annotations

import json
import math
import struct
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from run.tree import pack, unpack

DTYPES = sorted((value for value in vars(torch).values() if isinstance(value, torch.dtype)), key=str)
PLAIN = [d for d in DTYPES if not any(kind in str(d) for kind in ("q", "bits", "float4", "int1", "int2", "int3"))]
PLAIN = [d for d in PLAIN if not any(str(d).endswith(kind) for kind in ("int4", "int5", "int6", "int7"))]


def round_trip(state):
    value, tensors = pack(state)
    return unpack(json.loads(json.dumps(value, allow_nan=False)), load(save(tensors)))


def same(one, other):
    """Equality that knows types, the bits of floats and tensors, and the order of keys."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return struct.pack(">d", one) == struct.pack(">d", other)
    if isinstance(one, torch.Tensor):
        equal = one.dtype == other.dtype and one.shape == other.shape
        return equal and one.reshape(-1).view(torch.uint8).equal(other.reshape(-1).view(torch.uint8))
    return one == other


@pytest.mark.parametrize(
    "state",
    [
        {},
        None,
        [[], (), {}, "", 0, False, None],
        {"a": (1, [2, (3,)]), "b": {"c": None}},
        {0: "int key", "0": "str key", -5: {1: 2}},
        {"!tuple": [1], "!float": {"!items": 2}, "!tensor": "x", "plain": 1},
        [0.1, -0.0, 1e-320, 1e308, 1.0, 3, True, 1 / 3, 2**80, -(2**70)],
        [math.nan, -math.nan, math.inf, -math.inf, struct.unpack(">d", bytes.fromhex("7ff8dead00000001"))[0]],
        {"text": 'ünï\ud800\n"\\', "": "empty key"},
    ],
)
def test_values_come_back_exactly(state):
    assert same(round_trip(state), state)


def test_readable_where_it_can_be():
    assert pack({"step": 3, "lr": 0.1, "names": ["a"]})[0] == {"step": 3, "lr": 0.1, "names": ["a"]}


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("dtype", PLAIN, ids=str)
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3)])
def test_tensors_of_every_type_and_shape_come_back_bit_for_bit(dtype, shape):
    count = math.prod(shape) * torch.empty((), dtype=dtype).element_size()
    content = torch.arange(count, dtype=torch.int64).mul(37).add(1).to(torch.uint8)
    tensor = content.clone().view(dtype).reshape(shape) if dtype is not torch.bool else (content % 2 > 0).reshape(shape)
    assert same(round_trip({"x": tensor, 1: [tensor]}), {"x": tensor, 1: [tensor]})


def test_number_of_types():
    assert {torch.bfloat16, torch.bool, torch.complex128, torch.int64} <= set(PLAIN)


def test_shared_views_and_parameters_become_tensors_of_their_own():
    base = torch.arange(12.0)
    state = {
        "all": base,
        "again": base,
        "part": base[3:6],
        "turned": base.reshape(3, 4).t(),
        "wide": base[:1].expand(4),
    }
    state["parameter"] = torch.nn.Parameter(base)
    back = round_trip(state)
    for name, tensor in state.items():
        assert back[name].equal(tensor.detach())
        assert type(back[name]) is torch.Tensor
    back["all"].zero_()
    assert back["again"].equal(base)


def test_conjugate_views_keep_their_values():
    tensor = torch.tensor([1 + 2j, 3 - 1j]).conj()
    assert round_trip([tensor])[0].equal(tensor.resolve_conj())


def test_places_that_read_alike_stay_apart():
    state = {"a/b": torch.tensor(1), "a": {"b": torch.tensor(2), 0: torch.tensor(3), "0": torch.tensor(4)}}
    state["__metadata__"] = torch.tensor(5)
    assert same(round_trip(state), state)


def test_other_mappings_and_sequences_become_dicts_and_tuples():
    back = round_trip({"o": OrderedDict(b=1, a=2), "size": torch.Size([2, 3]), "number": np.float64(0.1)})
    assert same(back, {"o": {"b": 1, "a": 2}, "size": (2, 3), "number": 0.1})


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"a": [0, {1, 2}]}, "set at /a/1"),
        ({"a": b"x"}, "bytes at /a"),
        ({"a": np.int64(3)}, "int64 at /a"),
        (object(), "object at its top"),
        ({"a": {1.5: 0}}, "key 1.5 at /a"),
        ({True: 0}, "key True"),
        ({"s": torch.ones(2, 2).to_sparse()}, "plain memory at /s"),
        ({"m": torch.ones(2, device="meta")}, "plain memory at /m"),
    ],
)
def test_anything_else_is_refused_with_its_place(state, said):
    with pytest.raises(TypeError, match=said):
        pack(state)
