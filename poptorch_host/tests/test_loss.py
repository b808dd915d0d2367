from __future__ import annotations

import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import poptorch_host as poptorch


class Model(nn.Module):
    """A linear layer and whatever loss a test puts behind it; every call returns (anything, …)."""

    def __init__(self, loss):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 4)
        self.loss = loss

    def forward(self, x, y):
        return self.loss(self.layer(x), y)


X = torch.linspace(-1, 1, 15).view(5, 3)
CLASSES = torch.tensor([0, 1, 2, 3, 0])
SOFT = torch.softmax(torch.arange(20.0).view(5, 4) % 7, -1)


def gradient_by_executor(loss, y):
    """The gradient of one step: SGD with rate 1 subtracts it."""
    model = Model(loss)
    before = model.layer.weight.detach().clone()
    executor = poptorch.trainingModel(model, None, torch.optim.SGD(model.parameters(), lr=1.0))
    executor(X, y)
    return before - model.layer.weight.detach()


def gradient_by_torch(loss, y):
    model = Model(lambda out, y: loss(out, y))
    value = model(X, y)
    value.sum().backward()
    return model.layer.weight.grad


@pytest.mark.parametrize(
    ("loss", "y"),
    [
        (F.cross_entropy, CLASSES),
        (nn.CrossEntropyLoss(label_smoothing=0.1), CLASSES),
        (lambda out, y: F.nll_loss(out.log_softmax(-1), y), CLASSES),
        (nn.NLLLoss(reduction="sum"), CLASSES),
        (F.mse_loss, SOFT),
        (F.l1_loss, SOFT),
        (nn.SmoothL1Loss(reduction="none"), SOFT),
        (F.binary_cross_entropy_with_logits, SOFT),
        (lambda out, y: F.binary_cross_entropy(out.sigmoid(), y), SOFT),
        (lambda out, y: F.kl_div(out.log_softmax(-1), y, reduction="batchmean"), SOFT),
        (F.poisson_nll_loss, SOFT),
        (lambda out, y: F.hinge_embedding_loss(out, torch.ones_like(out)), SOFT),
        (lambda out, y: F.cosine_embedding_loss(out, y, torch.ones(5)), SOFT),
        (lambda out, y: F.margin_ranking_loss(out, y, torch.ones(5, 4)), SOFT),
        (lambda out, y: F.soft_margin_loss(out, y.sign()), SOFT),
        (F.multilabel_soft_margin_loss, SOFT),
        (lambda out, y: F.triplet_margin_loss(out, y, -y), SOFT),
        (lambda out, y: F.ctc_loss(out.log_softmax(-1)[:, None], torch.tensor([[1, 2]]), (5,), (2,)), SOFT),
    ],
)
def test_built_in_losses_are_found_and_differentiated(loss, y):
    torch.testing.assert_close(gradient_by_executor(loss, y), gradient_by_torch(loss, y), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("reduction", "weight"), [("sum", 1.0), ("none", 1.0), ("mean", 1 / 20)])
def test_identity_loss_feeds_back_one_or_one_over_the_number_of_elements(reduction, weight):
    gradient = gradient_by_executor(lambda out, y: poptorch.identity_loss(out, reduction), CLASSES)
    expected = weight * X.sum(0).expand(4, 3)  # d sum(W x) / dW
    torch.testing.assert_close(gradient, expected)


def test_identity_loss_outside_a_program():
    x = torch.tensor([1.0, 3.0])
    assert poptorch.identity_loss(x, "sum") == 4
    assert poptorch.identity_loss(x, reduction="mean") == 2
    same = poptorch.identity_loss(x, "none")
    assert torch.equal(same, x)
    assert same is not x
    with pytest.raises(AssertionError, match="average"):
        poptorch.identity_loss(x, "average")


def test_the_loss_may_be_any_output_or_none():
    def hidden(out, y):
        F.cross_entropy(out, y)
        return out

    assert torch.equal(gradient_by_executor(hidden, CLASSES), gradient_by_executor(F.cross_entropy, CLASSES))


def test_a_marker_that_feeds_another_is_plain_arithmetic():
    def mixed(out, y):
        both = 0.75 * F.cross_entropy(out, y, reduction="none") + 0.25 * F.cross_entropy(out, (y + 1) % 4)
        return poptorch.identity_loss(both, "mean")

    def by_hand(out, y):
        return (0.75 * F.cross_entropy(out, y, reduction="none") + 0.25 * F.cross_entropy(out, (y + 1) % 4)).mean()

    torch.testing.assert_close(gradient_by_executor(mixed, CLASSES), gradient_by_torch(by_hand, CLASSES))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda out, y: out.sum(), "Couldn't find a loss"),
        (lambda out, y: F.cross_entropy(out, SOFT), "Couldn't find a loss"),  # soft targets are no built-in loss
        (lambda out, y: (F.mse_loss(out, SOFT), F.l1_loss(out, SOFT)), "Multiple independent losses"),
        (lambda out, y: F.mse_loss(out.detach(), SOFT), "requires a gradient"),
        (lambda out, y: (F.cross_entropy(out, y), F.l1_loss(out.detach(), SOFT)), "Multiple independent"),
    ],
)
def test_programs_without_exactly_one_loss_do_not_compile(loss, message):
    model = Model(loss)
    before = model.layer.weight.detach().clone()
    executor = poptorch.trainingModel(model)
    with pytest.raises(poptorch.Error, match=message):
        executor.compile(X, CLASSES)
    assert not executor.isCompiled()
    assert torch.equal(model.layer.weight, before)


def test_hugging_face_vit_with_labels():
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        image_size=8, patch_size=4, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    config.num_labels = 3
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(config).train()
    reference = transformers.ViTForImageClassification(config).train()
    reference.load_state_dict(model.state_dict())
    images, labels = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    expected = reference(images, labels=labels)
    expected.loss.backward()
    torch.optim.SGD(reference.parameters(), lr=0.1).step()
    executor = poptorch.trainingModel(model, None, torch.optim.SGD(model.parameters(), lr=0.1))
    out = executor(images, labels=labels)
    torch.testing.assert_close(out.loss, expected.loss.detach())
    torch.testing.assert_close(out["logits"], expected.logits.detach())
    for (name, trained), other in zip(model.named_parameters(), reference.parameters()):
        torch.testing.assert_close(trained.detach(), other.detach(), msg=name)


def test_losses_compute_in_float32_when_bfloat16_stands_for_half():
    executor = poptorch.trainingModel(Model(F.cross_entropy).half())
    loss = executor(X.half(), CLASSES)
    exact = F.cross_entropy(Model(None).layer(X), CLASSES)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact.detach(), rtol=4e-3, atol=0)  # logits keep eight bits


def test_losses_outside_of_a_program_are_not_collected():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

        def forward(self, x):
            return poptorch.identity_loss(self.weight * x, "sum")

    poptorch.trainingModel(Outer())(torch.ones(2))
    loss = weakref.ref(poptorch.identity_loss(torch.ones(2), "mean"))
    assert loss() is None
