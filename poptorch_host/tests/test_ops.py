"""Custom operators and the other operators of a forward pass."""

import pytest
import torch

from poptorch_host import ops
from poptorch_host.custom_ops import custom_op, register_custom_op
from poptorch_host.enums import MatMulSerializationMode, MultiConvPlanType, OverlapMode
from poptorch_host.errors import Error


def test_remap_is_the_identity_and_its_gradient_too():
    x = torch.rand(2, 3, requires_grad=True)
    (y,) = custom_op([x], "RemapCE", "ai.graphcore", 1, [x], {"fwd_grain_size": 8, "debug_str": "qkv"})
    assert torch.equal(y, x)
    y.square().sum().backward()
    assert torch.equal(x.grad, 2 * x)


def test_remap_takes_the_operator_of_a_loaded_library_on_the_cpu():
    """It gets the attributes as they are; tensors elsewhere stay as they are."""
    attributes = {"fwd_grain_size": 16, "debug_str": "qkv"}
    library = torch.library.Library("remap", "FRAGMENT")
    try:
        library.define("RemapCE(Tensor x, *, int fwd_grain_size=8, str debug_str='') -> Tensor")
        library.impl("RemapCE", lambda x, fwd_grain_size, debug_str: x * fwd_grain_size, "CPU")
        (y,) = custom_op([torch.ones(2)], "RemapCE", "ai.graphcore", 1, [torch.ones(2)], attributes)
        assert y.tolist() == [16.0, 16.0]
        x = torch.ones(2, device="meta")
        assert custom_op([x], "RemapCE", "ai.graphcore", 1, [x], attributes)[0] is x
    finally:
        library._destroy()
    x = torch.ones(2)
    assert custom_op([x], "RemapCE", "ai.graphcore", 1, [x], attributes)[0] is x


def test_a_registered_function_stands_for_a_custom_op():
    register_custom_op("Scale", "own", lambda inputs, attributes: inputs[0] * attributes["by"])
    (y,) = custom_op((torch.ones(2),), "Scale", "own", 1, example_outputs=[torch.zeros(2)], attributes={"by": 3.0})
    assert y.tolist() == [3.0, 3.0]
    with pytest.raises(Error, match="example_outputs say"):
        custom_op((torch.ones(2),), "Scale", "own", 1, [torch.zeros(3)], {"by": 3.0})
    with pytest.raises(Error, match=r'"Scale" of domain "other"'):
        custom_op((torch.ones(2),), "Scale", "other", 1, [torch.zeros(2)], {"by": 3.0})


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({1: 2}, "keys are strings"),
        ({"a": None}, "none of float"),
        ({"a": [1, None]}, "none of float"),
        ({"a": [1, 2.0]}, "mixes types"),
        ({"a": "ö"}, "non-ASCII"),
        ({"ö": 1}, "non-ASCII"),
        ({"a": ["b", "ö"]}, "non-ASCII"),
    ],
)
def test_custom_op_checks_attributes(attributes, message):
    x = torch.ones(1)
    with pytest.raises(ValueError, match=message):
        custom_op([x], "RemapCE", "ai.graphcore", 1, [x], attributes)


def test_hints_return_their_argument():
    x = torch.rand(2)
    assert ops.nop(x) is x
    assert ops.set_available_memory(x, 0.1) is x
    assert ops.set_overlap_for_input([x], OverlapMode.NoOverlap) == [x]
    assert ops.set_overlap_for_output(x, OverlapMode.NoOverlap) is x
    with ops.NameScope("a"), ops.Attribute(b={"c": 1}), ops.MultiConv().planType(MultiConvPlanType.Serial):
        pass
    with pytest.raises(Error, match="takes a tensor"):
        ops.set_available_memory(2.0, 0.1)


def test_name_scope_operators_exist():
    torch.ops.poptorch.push_name_scope("layer")
    torch.ops.poptorch.pop_name_scope()


def test_operators_compute():
    a, b = torch.rand(3, 4), torch.rand(4, 2)
    assert torch.equal(ops.serializedMatMul(a, b, MatMulSerializationMode.ReducingDim, 2), a @ b)
    assert ops.for_loop(3, lambda x, y: [y, x + y], [torch.tensor(0), torch.tensor(1)]) == [2, 3]
    assert ops.for_loop(4, lambda x: x * 2, [torch.tensor(1)]) == [16]
    double, halve = (lambda x: x * 2), (lambda x: x / 2)
    for flag, expected in [(True, 8.0), (False, 2.0)]:
        assert ops.cond(torch.tensor([flag]), double, [torch.tensor(4.0)], halve, [torch.tensor(4.0)]) == [expected]
    sliced = ops.dynamic_slice(torch.arange(10), 0, torch.tensor([2]), 6, 3)
    assert sliced.tolist() == [2, 5]
    updated = ops.dynamic_update(torch.zeros(2, 4), torch.ones(2, 2), 1, torch.tensor(1), 2)
    assert updated.tolist() == [[0, 1, 1, 0]] * 2
    assert ops.CPU(lambda x: x + 1, "plus")(2) == 3


@pytest.mark.parametrize(
    ("call", "exception"),
    [
        (lambda: ops.for_loop(1, lambda x: x, torch.ones(1)), ValueError),
        (lambda: ops.for_loop(1, lambda x: [x, x], [torch.ones(1)]), Error),
        (lambda: ops.cond(torch.ones(1), None, [1], None, []), ValueError),
        (lambda: ops.dynamic_update(torch.ones(2), torch.ones(1, 1), 0, torch.tensor(0), 1), Error),
        (lambda: ops.serializedMatMul(torch.ones(1, 1), torch.ones(1, 1), "reducing_dim"), AssertionError),
        (lambda: ops.MultiConv().partialsTypes(torch.int8), ValueError),
        (lambda: ops.NameScope(3), AssertionError),
    ],
)
def test_operators_refuse(call, exception):
    with pytest.raises(exception):
        call()


def test_print_tensor(capsys):
    x = torch.tensor([1.25], requires_grad=True)
    y = ops.ipu_print_tensor(x, "weights", digits=2)
    (3 * y).sum().backward()
    assert y is x
    assert capsys.readouterr().err == "weights: tensor([1.25])\nweights_gradient: tensor([3.])\n"
    assert repr(torch.tensor(1 / 3)) == "tensor(0.3333)"
