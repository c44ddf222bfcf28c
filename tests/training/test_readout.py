"""The readout in dual form, against scikit-learn's logistic regression in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from pcl_jax.training import readout

RNG = np.random.default_rng(5)
CLASSES = 4


def a_problem(rows, features):
    """Return vectors of squared norm about 1 that partly separate the classes, and their labels."""
    labels = np.arange(rows) % CLASSES
    means = RNG.normal(size=(CLASSES, features))
    x = (RNG.normal(size=(rows, features)) + 0.5 * means[labels]) / np.sqrt(features)
    return x.astype(np.float32), labels


def test_biases_sum_to_zero():
    x, labels = a_problem(21, 16)
    dual = readout.fit(jnp.array(x @ x.T), one_hot(labels), np.ones(21, np.float32), 0.01)
    assert np.abs(dual.bias).max() > 0.01
    np.testing.assert_allclose(dual.bias.sum(), 0, atol=1e-5)


def one_hot(labels):
    return np.eye(CLASSES, dtype=np.float32)[labels]


@pytest.mark.parametrize(("rows", "features"), [(8, 88), (25, 1024), (80, 128), (300, 88)])
@pytest.mark.parametrize("penalty", [0.1, 0.01])
def test_log_probabilities_are_those_of_scikit_learn(rows, features, penalty):
    x, labels = a_problem(rows, features)
    new, _ = a_problem(50, features)
    weights = RNG.uniform(0.2, 1.0, rows).astype(np.float32)
    dual = readout.fit(jnp.array(x @ x.T), one_hot(labels), weights, penalty)
    found = jax.nn.log_softmax(readout.logits(dual, new @ x.T))
    reference = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=20_000)
    reference.fit(x.astype(np.float64), labels, sample_weight=weights)
    np.testing.assert_allclose(found, reference.predict_log_proba(new.astype(np.float64)), atol=1e-4)


def test_the_gradient_vanishes_at_soft_targets():
    x, _ = a_problem(30, 64)
    targets = RNG.dirichlet(np.ones(CLASSES), 30).astype(np.float32)
    weights, penalty = RNG.uniform(0, 1, 30).astype(np.float32), 0.05

    def objective(weight_and_bias):
        weight, bias = weight_and_bias
        loss = -(weights[:, None] * targets * jax.nn.log_softmax(x @ weight + bias)).sum()
        return loss + penalty / 2 * (weight**2).sum()

    dual = readout.fit(jnp.array(x @ x.T), targets, weights, penalty)
    for slope in jax.grad(objective)((x.T @ dual.alpha, dual.bias)):
        assert np.abs(slope).max() < 1e-4


def test_a_row_of_weight_zero_has_no_influence():
    x, labels = a_problem(24, 64)
    kept = np.arange(24) < 20
    gram = jnp.array(x @ x.T)
    all_rows = readout.fit(gram, one_hot(labels), kept.astype(np.float32), 0.01)
    rows = readout.fit(gram[:20, :20], one_hot(labels)[:20], np.ones(20, np.float32), 0.01)
    np.testing.assert_array_equal(all_rows.alpha[20:], 0)
    np.testing.assert_allclose(all_rows.alpha[:20], rows.alpha, atol=1e-5)


def test_many_fits_are_each_what_one_is():
    x, labels = a_problem(30, 64)
    kept = (RNG.uniform(size=(3, 30)) < 0.8).astype(np.float32)
    grams = np.stack([x @ x.T, 0.5 * x @ x.T])
    duals = readout.fit_all(grams, labels, kept, CLASSES, 0.01)
    assert duals.alpha.shape == (2, 3, 30, CLASSES)
    for view in range(2):
        for number in range(3):
            one = readout.fit(jnp.array(grams[view]), one_hot(labels), kept[number], 0.01)
            np.testing.assert_allclose(duals.alpha[view, number], one.alpha, atol=1e-4)


def test_a_class_without_labels_is_never_predicted():
    x, labels = a_problem(24, 64)
    dual = readout.fit(jnp.array(x @ x.T), one_hot(labels % 3), np.ones(24, np.float32), 0.01)
    assert not (readout.logits(dual, x @ x.T).argmax(axis=1) == 3).any()
