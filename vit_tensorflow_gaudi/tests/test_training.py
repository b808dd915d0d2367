"""An update: accumulation, clipping, the optimizers' arithmetic, and what stops it."""

import gc
import sys

import numpy as np
import pytest
import tensorflow as tf

import distributed
from errors import UserError
from launcher import Place
from models import create_model
from models.dropout import DropoutMasks
from optimizers import make_optimizer
from training import Trainer, normalise

DRAW = np.random.default_rng(0)
IMAGES = tf.constant(DRAW.integers(0, 256, (8, 16, 16, 3)), tf.uint8)
LABELS = tf.constant(DRAW.integers(0, 10, 8), tf.int32)


def trainer(optimizer="sgd", clip=1.0, dropout=0.1, workers=None, **changes):
    tf.keras.utils.set_random_seed(0)
    masks = DropoutMasks(7)
    sizes = {"width": 16, "depth": 1, "heads": 2, "mlp_width": 16, "patch_size": 8, "zero_head": False}
    model = create_model("ViT-B_16", image_size=16, num_classes=10, masks=masks, dropout=dropout, **sizes)
    rule, rate = make_optimizer(optimizer, **changes)
    return Trainer(model, rule, rate, workers or distributed.alone(), clip_norm=clip, masks=masks)


def parts(count):
    size = len(LABELS) // count
    return [(IMAGES[i : i + size], LABELS[i : i + size]) for i in range(0, len(LABELS), size)]


def flat(model):
    return np.concatenate([variable.numpy().ravel() for variable in model.trainable_variables]).astype(np.float64)


def gradient(model):
    with tf.GradientTape() as tape:
        logits = model(normalise(IMAGES), training=True)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(LABELS, logits))
    return np.concatenate([g.numpy().ravel() for g in tape.gradient(loss, model.trainable_variables)]).astype(
        np.float64
    )


def test_images_become_minus_one_to_one():
    assert normalise(tf.constant([[0, 255]], tf.uint8)).numpy().tolist() == [[-1, 1]]
    assert normalise(tf.constant([0.5])).numpy().tolist() == [0.5]


@pytest.mark.parametrize(("optimizer", "counts"), [("sgd", (1, 2, 4)), ("adam", (1, 4))])
def test_k_micro_batches_equal_one_of_k_times_their_size_under_clipping(optimizer, counts):
    ends = []
    for count in counts:
        maker = trainer(optimizer, clip=0.5)
        for number in range(3):
            totals, _ = maker.update(parts(count), number=number, rate=0.01)
            assert maker.measured(totals).gradient_norm > 0.5  # so that the clipping is at work
        ends.append(flat(maker.model))
    assert all(abs(end - ends[0]).max() < 1e-6 for end in ends[1:])


@pytest.mark.parametrize("count", [1, 4])
def test_the_first_sgd_update_is_as_long_as_rate_times_clip(count):
    maker = trainer(clip=0.25)
    before = flat(maker.model)
    maker.update(parts(count), number=0, rate=0.1)
    assert np.linalg.norm(flat(maker.model) - before) == pytest.approx(0.1 * 0.25, rel=1e-4)


def rule(name, gradients, w):
    """The document's optimizers in NumPy, rate 0.1."""
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        if name == "sgd":
            m = 0.9 * m - 0.1 * g
            w = w + m
        elif name == "adam":
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            w = w - 0.1 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-2)
        else:
            v = 0.9 * v + 0.1 * g**2
            w = w - 0.1 * g / (np.sqrt(v) + 1e-2)
        yield w


@pytest.mark.parametrize("name", ["sgd", "adam", "rmsprop"])
def test_optimizers_have_the_documents_settings(name):
    optimizer, rate = make_optimizer(name)
    rate.assign(0.1)
    variable = tf.Variable([1.0, -2.0, 3.0])
    gradients = DRAW.standard_normal((5, 3)).astype(np.float32)
    for g, wanted in zip(gradients, rule(name, gradients, variable.numpy().astype(np.float64))):
        optimizer.apply_gradients([(tf.constant(g), variable)])
        np.testing.assert_allclose(variable.numpy(), wanted, rtol=2e-5)


@pytest.mark.parametrize("name", ["sgd", "adam", "rmsprop", "adamw", "lamb"])
def test_the_rate_is_that_of_the_update(name):
    maker = trainer(name, dropout=0.0)
    start = flat(maker.model)
    maker.update(parts(1), number=0, rate=0.0)
    assert (flat(maker.model) == start).all()
    maker.update(parts(1), number=1, rate=0.01)
    assert not (flat(maker.model) == start).all()


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_weight_decay_leaves_vectors_alone(name):
    ends = []
    for decay in (0.0, 0.5):
        maker = trainer(name, dropout=0.0, weight_decay=decay)
        maker.update(parts(1), number=0, rate=0.01)
        ends.append({variable.name: variable.numpy() for variable in maker.model.trainable_variables})
    changed = {name for name in ends[0] if not (ends[0][name] == ends[1][name]).all()}
    assert changed == {name for name in ends[0] if "kernel" in name}


def test_python_sees_few_tensors_of_an_update():
    """On Python 3.11 TensorFlow never frees a tensor's last block; these two micro-steps would make 50 of gradients."""
    maker, batches, left = trainer(), parts(2), []
    for number in range(150):
        maker.update(batches, number=number, rate=0.01)
        if number in (49, 149):
            gc.collect()
            left.append(sys.getallocatedblocks())
    assert len(maker.model.trainable_variables) == 24
    assert left[1] - left[0] < 100 * 8


def test_what_was_measured_is_the_whole_batchs():
    maker = trainer(dropout=0.0)
    norm = np.linalg.norm(gradient(maker.model))
    logits = maker.model(normalise(IMAGES))
    found = maker.measured(maker.update(parts(4), number=0, rate=0.1)[0])
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(LABELS, logits)
    assert found.loss == pytest.approx(float(tf.reduce_mean(losses)), rel=1e-5)
    assert found.accuracy == np.mean(np.argmax(logits, 1) == LABELS.numpy())
    assert found.gradient_norm == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_loss_that_is_not_finite_stops_before_the_update(optimizer):
    maker = trainer(optimizer)
    maker.update(parts(2), number=0, rate=0.1)
    head = maker.model.get_layer("head").bias
    head.assign(tf.fill(head.shape, np.nan))
    found = maker.optimizer.variables
    state = [*maker.model.variables, *(found() if callable(found) else found)]
    state = [variable for variable in state if "learning_rate" not in variable.name]
    before = [variable.numpy() for variable in state]
    with pytest.raises(UserError, match=r"the loss of update 2 is not finite \(learning rate 0.05\)"):
        maker.update(parts(2), number=1, rate=0.05)
    kept = [np.array_equal(old, now.numpy(), equal_nan=True) for old, now in zip(before, state)]
    assert [variable.name for variable, same in zip(state, kept) if not same] == []


def test_a_gradient_that_is_not_finite_stops_too():
    maker = trainer(dropout=0.0)
    head = maker.model.get_layer("head").kernel
    head.assign(head * 1e25)  # the loss is finite, the square of the gradient is not
    with pytest.raises(UserError, match="the gradient norm of update 1 is not finite"):
        maker.update(parts(1), number=0, rate=0.1)


class _Echo:
    """An MPI of two processes whose other one has the same numbers."""

    @staticmethod
    def Ibarrier():  # noqa: N802
        return _Echo

    @staticmethod
    def Test():  # noqa: N802
        return True

    calls = 0

    def Allreduce(self, _in_place, vector, _op):  # noqa: N802
        self.calls += 1
        vector *= 2


def test_workers_are_summed_once_per_update():
    echo = _Echo()
    pair = distributed.Workers(Place(0, 2, 0, 2, "mpirun"), tf.distribute.get_strategy(), echo)
    alone, both = trainer(dropout=0.0), trainer(dropout=0.0, workers=pair)
    found = [maker.measured(maker.update(parts(4), number=0, rate=0.1)[0]) for maker in (alone, both)]
    assert echo.calls == 1
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)
    np.testing.assert_allclose(flat(both.model), flat(alone.model), atol=1e-7)
