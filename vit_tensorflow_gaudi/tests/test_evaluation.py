"""Exact scores: padding does not count, parts add up, a stop gives up."""

import numpy as np
import tensorflow as tf

import distributed
from evaluation import Evaluator
from launcher import Place

CLASSES = 12
DRAW = np.random.default_rng(3)
# The "images" are the logits: the arithmetic can be checked by hand.
LOGITS = DRAW.standard_normal((23, CLASSES)).astype(np.float32)
LABELS = DRAW.integers(0, CLASSES, 23).astype(np.int32)


def model(logits, training):
    assert training is False
    return logits


def batches(logits, labels, size):
    short = -len(labels) % size
    logits = np.concatenate([logits, np.full((short, CLASSES), 7, np.float32)])
    labels = np.concatenate([labels, np.full(short, -1, np.int32)])
    return [(tf.constant(logits[i : i + size]), tf.constant(labels[i : i + size])) for i in range(0, len(labels), size)]


def expected():
    truth = LOGITS[np.arange(23), LABELS]
    ranks = np.sum(truth[:, None] < LOGITS, axis=1)
    losses = np.log(np.exp(LOGITS.astype(np.float64)).sum(1)) - truth
    return losses.mean(), (ranks < 1).mean(), (ranks < 5).mean()


def test_every_sample_counts_once_and_padding_never():
    for size in (1, 4, 23, 32):
        score = Evaluator(model, distributed.alone())(batches(LOGITS, LABELS, size))
        assert score.samples == 23
        np.testing.assert_allclose([score.loss, score.top1, score.top5], expected(), rtol=1e-6)


def test_two_workers_parts_make_the_whole():
    parts = [batches(LOGITS[k::2], LABELS[k::2], 4) for k in range(2)]
    sums = []

    class Recorder(distributed.Workers):
        def total(self, values):
            sums.append(np.array(values))
            return list(np.sum(sums, axis=0))

    for rank, part in enumerate(parts):
        score = Evaluator(model, Recorder(Place(rank, 2, rank, 2, "mpirun"), tf.distribute.get_strategy()))(part)
    assert score.samples == 23
    np.testing.assert_allclose([score.loss, score.top1, score.top5], expected(), rtol=1e-6)


def test_with_fewer_than_five_classes_top5_is_everything():
    logits = tf.constant([[0.0, 1.0, 2.0]])
    score = Evaluator(model, distributed.alone())([(logits, tf.constant([0]))])
    assert (score.top1, score.top5) == (0, 1)


def test_a_stop_gives_the_evaluation_up():
    asked = iter([False, True])
    assert Evaluator(model, distributed.alone(), lambda: next(asked))(batches(LOGITS, LABELS, 4)) is None
