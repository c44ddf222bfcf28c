"""Co-training where the answer is known: independent views gain, a dominant view and noise cost nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pcl_jax.training import co_training, readout
from pcl_jax.training.co_training import PENALTY, UNLABELLED, UNUSED, co_train, select, teachers
from pcl_jax.training.competence import log_odds

CLASSES, FEATURES, ROWS = 2, 30, 400


def a_view(rng, truth, distance):
    """Return standardised vectors: two Gaussian classes, noise independent of any other view."""
    direction = rng.normal(size=FEATURES)
    direction /= np.linalg.norm(direction)
    x = rng.normal(size=(len(truth), FEATURES)) + distance * np.outer(2 * truth - 1, direction)
    return ((x - x.mean(axis=0)) / x.std(axis=0) / np.sqrt(FEATURES)).astype(np.float32)


def plain(grams, labels):
    """Return readouts of each view, fitted on the labels alone."""
    known = (labels >= 0).astype(np.float32)
    targets = jax.nn.one_hot(labels, CLASSES)
    return jax.vmap(lambda gram: readout.fit(gram, targets, known, PENALTY))(grams)


def accuracies(views, truth, labels, advice, test):
    """Return the accuracy on unseen rows of each view, before and after co-training."""
    train = ~test
    grams = jnp.array(np.stack([x[train] @ x[train].T for x in views]))
    found = []
    start = plain(grams, labels[train])
    for dual in (start, co_train(grams, labels[train], advice, start)):
        across = jnp.array(np.stack([x[test] @ x[train].T for x in views]))
        predicted = readout.logits(dual, across).argmax(axis=2)
        found.append((np.asarray(predicted) == truth[test]).mean(axis=1))
    return found


def mean_accuracies(distances, weights, repeats=12):
    """Return mean accuracies before and after, over draws of data and of two labels a class."""
    before, after = [], []
    for repeat in range(repeats):
        rng = np.random.default_rng([7, repeat])
        truth = rng.permutation(np.arange(ROWS) % CLASSES)
        views = [a_view(rng, truth, distance) for distance in distances]
        labels = np.full(ROWS, UNLABELLED)
        test = np.arange(ROWS) >= ROWS // 2
        for c in range(CLASSES):
            labels[np.flatnonzero((truth == c) & ~test)[:2]] = c
        one, two = accuracies(views, truth, labels, teachers(np.array(weights)), test)
        before.append(one)
        after.append(two)
    return np.mean(before, axis=0), np.mean(after, axis=0)


@pytest.mark.slow
def test_independent_views_of_equal_competence_gain():
    """The theorem of Blum and Mitchell: conditionally independent views teach each other."""
    before, after = mean_accuracies([1.5, 1.5], [1.0, 1.0])
    assert (after > before + 0.08).all()


def test_a_dominant_view_teaches_and_is_not_changed():
    rng = np.random.default_rng(1)
    truth = np.arange(ROWS) % CLASSES
    views = [a_view(rng, truth, distance) for distance in (3.0, 0.5)]
    grams = jnp.array(np.stack([x @ x.T for x in views]))
    labels = np.where(np.arange(ROWS) < 20, truth, UNLABELLED)
    advice = teachers(log_odds(np.array([0.95, 0.6]), CLASSES))
    np.testing.assert_array_equal(advice[0], 0)
    start = plain(grams, labels)
    taught = co_train(grams, labels, advice, start)
    scores = [jax.nn.softmax(readout.logits(dual, grams)) for dual in (start, taught)]
    np.testing.assert_allclose(scores[0][0], scores[1][0], atol=1e-5)
    accuracy = [(np.asarray(one[1]).argmax(axis=1) == truth).mean() for one in scores]
    assert accuracy[1] > accuracy[0]  # the weak view learns from the dominant one


@pytest.mark.slow
def test_a_view_of_noise_costs_a_competent_view_nothing():
    before, after = mean_accuracies([1.5, 1.5, 0.0], log_odds(np.array([0.8, 0.8, 0.5]), CLASSES))
    alone = mean_accuracies([1.5, 1.5], [1.0, 1.0])[1]
    assert (after[:2] > before[:2]).all()
    np.testing.assert_allclose(after[:2].mean(), alone.mean(), atol=0.03)


def test_a_copy_of_a_view_teaches_it_nothing_new():
    """Dependent views, where theory promises nothing: pseudo-labels by one's own scores move little."""
    rng = np.random.default_rng(3)
    truth = rng.permutation(np.arange(ROWS) % CLASSES)
    x = a_view(rng, truth, 1.5)
    labels = np.where(np.arange(ROWS) < 12, truth, UNLABELLED)
    grams = jnp.array(np.stack([x @ x.T, x @ x.T]))
    start = plain(grams, labels)
    taught = co_train(grams, labels, teachers(np.ones(2)), start)
    scores = [readout.logits(dual, grams) for dual in (start, taught)]
    same = np.asarray(scores[0][0]).argmax(axis=1) == np.asarray(scores[1][0]).argmax(axis=1)
    assert same.mean() > 0.85


def test_unused_rows_have_no_influence(monkeypatch):
    # Rough fits differ by more than rounding, and a pseudo-label more or less changes everything after it.
    monkeypatch.setattr(co_training, "ROUGH", readout.EXACT)
    rng = np.random.default_rng(4)
    truth = np.arange(60) % CLASSES
    views = [a_view(rng, truth, 1.5) for _ in range(2)]
    labels = np.where(np.arange(60) < 8, truth, UNLABELLED)
    padded = np.concatenate([labels, np.full(20, UNUSED)])
    large = np.zeros((2, 80, 80), np.float32)
    small = np.stack([x @ x.T for x in views])
    large[:, :60, :60] = small
    small, large = jnp.array(small), jnp.array(large)
    one = co_train(small, labels, teachers(np.ones(2)), plain(small, labels))
    two = co_train(large, padded, teachers(np.ones(2)), plain(large, padded))
    # Coefficients that the Gram matrix maps to zero are free, so scores are compared.
    scores = readout.logits(one, small), readout.logits(two, large)
    np.testing.assert_allclose(scores[1][:, :60], scores[0], atol=1e-4)
    np.testing.assert_array_equal(two.alpha[:, 60:], 0)


def test_the_last_round_is_fitted_to_the_end():
    rng = np.random.default_rng(6)
    truth = np.arange(60) % CLASSES
    views = [a_view(rng, truth, 1.5) for _ in range(2)]
    labels = np.where(np.arange(60) < 8, truth, UNLABELLED)
    grams = jnp.array(np.stack([x @ x.T for x in views]))
    rough, found, longer = (
        readout.logits(co_train(grams, labels, teachers(np.ones(2)), plain(grams, labels), last=steps), grams)
        for steps in (readout.ROUGH, readout.EXACT, readout.Steps(24, 48))
    )
    np.testing.assert_allclose(found, longer, atol=1e-3)
    assert np.abs(rough - longer).max() > 1e-3


@pytest.mark.parametrize(("share", "expected"), [(0.25, 1), (0.5, 2), (1.0, 4)])
def test_as_many_of_each_class_are_selected_as_the_share_says(share, expected):
    rng = np.random.default_rng(5)
    confidence = rng.uniform(0.6, 1.0, 8)
    p = np.where(np.arange(8)[:, None] % 2 == np.arange(2), confidence[:, None], 1 - confidence[:, None])
    chosen = np.asarray(select(jnp.log(jnp.array(p)), jnp.ones(8, bool), share))
    assert chosen.sum(axis=0).tolist() == [expected, expected]
    for c in range(2):
        mine = np.flatnonzero(np.arange(8) % 2 == c)
        best = mine[np.argsort(-confidence[mine])[:expected]]
        assert set(np.flatnonzero(chosen[:, c])) == set(best)
