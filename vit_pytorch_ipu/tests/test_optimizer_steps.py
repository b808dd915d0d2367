"""Adam and LAMB: twenty updates of the device program against the same written down in float64 NumPy."""

import numpy as np
import pytest
import torch
from torch import nn

from ipu.training import set_learning_rate
from ipu_options import training_options
from models.supervised import Supervised
from optimization import create_optimizer, learning_rate
from options import PretrainOptions
from poptorch_host.backend import poptorch

STEPS, FEATURES, CLASSES = 20, 12, 5
MICRO_BATCH, ACCUMULATION, REPLICAS = 4, 3, 2
BETAS = (0.9, 0.98)


def gradients(weight, bias, images, labels):
    """Of the softmax cross-entropy of x W^T + b, averaged over the samples of one micro-batch."""
    logits = images @ weight.T + bias
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    shares[np.arange(len(labels)), labels] -= 1.0
    return shares.T @ images / len(labels), shares.mean(0)


def reference(weights, data, rates, given):
    """The weights after every update: moments, bias correction and each optimizer's step, by its paper."""
    weights = [value.copy() for value in weights]
    moments = [(np.zeros_like(value), np.zeros_like(value)) for value in weights]
    decays = [given.weight_decay, 0.0]  # no decay on the bias
    caps = [given.max_norm, given.max_norm_bias]
    beta1, beta2 = given.adam_betas
    for step, ((images, labels), rate) in enumerate(zip(data, rates), 1):
        parts = zip(np.split(images, ACCUMULATION * REPLICAS), np.split(labels, ACCUMULATION * REPLICAS))
        total = [sum(part) for part in zip(*(gradients(*weights, *part) for part in parts))]
        if given.reduction_type == "mean":
            total = [value / (ACCUMULATION * REPLICAS) for value in total]
        for i, gradient in enumerate(total):
            if given.optimizer == "Adam":
                gradient = gradient + decays[i] * weights[i]
            m = beta1 * moments[i][0] + (1 - beta1) * gradient
            v = beta2 * moments[i][1] + (1 - beta2) * gradient**2
            moments[i] = (m, v)
            if given.optimizer == "Adam" or given.bias_correction:
                m, v = m / (1 - beta1**step), v / (1 - beta2**step)
            update = m / (np.sqrt(v) + given.adam_eps)
            ratio = 1.0
            if given.optimizer == "LAMB":
                update = update + decays[i] * weights[i]
                norm = min(np.linalg.norm(weights[i]), caps[i])
                ratio = norm / np.linalg.norm(update) if norm and np.linalg.norm(update) else 1.0
            weights[i] = weights[i] - rate * ratio * update
    return weights


@pytest.mark.parametrize("loss_scaling", [1.0, 128.0])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize(
    ("optimizer", "changes"),
    [
        ("Adam", {"weight_decay": 0.05}),
        ("LAMB", {"weight_decay": 0.05, "adam_eps": 1e-6}),
        ("LAMB", {"weight_decay": 0.05, "max_norm": 0.5, "max_norm_bias": 0.25}),
        ("LAMB", {"bias_correction": False}),
    ],
    ids=["Adam", "LAMB", "LAMB-capped", "LAMB-uncorrected"],
)
def test_twenty_updates(optimizer, changes, reduction, loss_scaling):
    given = PretrainOptions(
        config="test",
        optimizer=optimizer,
        reduction_type=reduction,
        loss_scaling=loss_scaling,
        gradient_accumulation=ACCUMULATION,
        replication_factor=REPLICAS,
        learning_rate=0.05,
        warmup_steps=5,
        adam_betas=list(BETAS),
        accum_type="fp32",
        layers_per_ipu=[1],
        half_partials=False,
        **changes,
    )
    chance = np.random.default_rng(5)
    rows = MICRO_BATCH * ACCUMULATION * REPLICAS
    data = [(chance.standard_normal((rows, FEATURES)), chance.integers(0, CLASSES, rows)) for _ in range(STEPS)]
    data = [(images.astype(np.float32).astype(np.float64), labels) for images, labels in data]
    rates = [learning_rate(given, step, STEPS) for step in range(STEPS)]

    torch.manual_seed(1)
    linear = nn.Linear(FEATURES, CLASSES)
    start = [parameter.detach().double().numpy() for parameter in (linear.weight, linear.bias)]
    model = Supervised(linear)  # the loss around a classifier that NumPy can differentiate in four lines
    device_optimizer = create_optimizer(model, given)
    program = poptorch.trainingModel(model.train(), training_options(given), device_optimizer)
    for (images, labels), rate in zip(data, rates):
        set_learning_rate(device_optimizer, rate)
        program.setOptimizer(device_optimizer)
        program(torch.from_numpy(images).float(), torch.from_numpy(labels))
    program.copyWeightsToHost()

    expected = reference(start, data, rates, given)
    for parameter, value, before in zip((linear.weight, linear.bias), expected, start):
        found = parameter.detach().double().numpy()
        assert np.linalg.norm(value - before) > 0.1 * np.linalg.norm(before)  # twenty steps that lead somewhere
        assert np.linalg.norm(found - value) <= 1e-6 * np.linalg.norm(value)
