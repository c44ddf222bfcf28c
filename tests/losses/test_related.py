"""SupCon by loops, SimCLR against optax, SigLIP against open_clip."""

import math
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxtyping
import loops
import numpy as np
import optax
import pytest

from pcl_jax.losses import (
    pairwise_nt_xent,
    sigmoid_loss,
    simclr_nt_xent,
    supervised_contrastive,
)

REFERENCE = dict(np.load(Path(__file__).parents[1] / "reference" / "losses_torch.npz"))


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def supervised_by_loops(rows, labels, temperature):
    """Average Khosla et al., Eq. (2), over the anchors that have a positive."""
    losses = []
    for a in range(len(rows)):
        candidates = [q for q in range(len(rows)) if q != a]
        similarities = [loops.cosine(rows[a], rows[q]) for q in candidates]
        positives = [position for position, q in enumerate(candidates) if labels[q] == labels[a]]
        if positives:
            losses.append(np.mean([loops.cross_entropy(similarities, p, temperature) for p in positives]))
    return np.mean(losses)


@pytest.mark.parametrize("k", [1, 3])
def test_supervised_contrastive_agrees_with_loops(k):
    views = np.random.default_rng(0).normal(size=(k, 9, 4))
    labels = np.array([0, 0, 1, 2, 1, 1, 0, 7, 2])
    mask = np.random.default_rng(1).random((k, 9)) < 0.8
    value = supervised_contrastive(views, labels, temperature=0.2, mask=mask)
    expected = supervised_by_loops(views[mask], np.tile(labels, (k, 1))[mask], 0.2)
    np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_without_any_positive_the_supervised_loss_is_zero():
    views = np.random.default_rng(2).normal(size=(1, 4, 3))
    value, gradient = jax.jit(jax.value_and_grad(supervised_contrastive))(views, np.arange(4))
    assert value == 0
    assert np.all(gradient == 0)


def test_simclr_equals_optax_ntxent():
    views = np.random.default_rng(3).normal(size=(2, 10, 6))
    labels = np.tile(np.arange(10), 2)

    def optax_loss(views):
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            return optax.losses.ntxent(views.reshape(20, 6), labels, temperature=0.5)

    value, gradient = jax.jit(jax.value_and_grad(simclr_nt_xent))(views)
    expected, expected_gradient = jax.jit(jax.value_and_grad(optax_loss))(jnp.asarray(views))
    np.testing.assert_allclose(value, expected, rtol=1e-5)  # the epsilon of optax's cosine is 1e-6
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-6)


def test_pairwise_has_no_negatives_within_a_view_and_simclr_has():
    """After a collapse the loss is ln n against ln(2 n - 1)."""
    views = np.ones((2, 10, 6))
    np.testing.assert_allclose(pairwise_nt_xent(views) / 4, math.log(10), rtol=1e-12)
    np.testing.assert_allclose(simclr_nt_xent(views), math.log(19), rtol=1e-12)


def test_sigmoid_loss_agrees_with_open_clip_in_value_and_gradients():
    tau = REFERENCE["temperature"]

    def function(views, temperature, bias):
        return sigmoid_loss(views, temperature=temperature, bias=bias)

    differentiated = jax.jit(jax.value_and_grad(function, (0, 1, 2)))
    value, (d_views, d_tau, d_bias) = differentiated(REFERENCE["views"][:2], tau, REFERENCE["bias"])
    np.testing.assert_allclose(value, REFERENCE["siglip"], rtol=1e-12)
    np.testing.assert_allclose(d_views, REFERENCE["siglip_views"][:2], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(d_tau, -REFERENCE["siglip_scale"] / tau**2, rtol=1e-10)
    np.testing.assert_allclose(d_bias, REFERENCE["siglip_bias"], rtol=1e-10)


@pytest.mark.parametrize("function", [sigmoid_loss, simclr_nt_xent])
def test_a_batch_with_absent_rows_equals_the_smaller_batch(function):
    views = np.random.default_rng(4).normal(size=(3, 12, 5))
    mask = np.random.default_rng(5).random(12) < 0.6
    smaller = views[:, mask]
    views[:, ~mask] = np.nan
    value, gradient = jax.jit(jax.value_and_grad(lambda v: function(v, mask=mask)))(views)
    expected, expected_gradient = jax.jit(jax.value_and_grad(function))(smaller)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(gradient[:, mask], expected_gradient, rtol=1e-10, atol=1e-14)
    assert np.all(gradient[:, ~mask] == 0)
    assert function(views, mask=np.zeros(12, bool)) == 0


@pytest.mark.parametrize(
    "function", [sigmoid_loss, simclr_nt_xent, partial(supervised_contrastive, labels=np.zeros(0, int))]
)
def test_an_empty_batch_costs_nothing(function):
    value, gradient = jax.value_and_grad(function)(jnp.zeros((2, 0, 4)))
    assert value == 0
    assert gradient.shape == (2, 0, 4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(
    "function", [sigmoid_loss, simclr_nt_xent, partial(supervised_contrastive, labels=np.arange(12) % 3)]
)
def test_a_row_that_is_not_finite_makes_the_loss_nan(function, bad):
    views = np.random.default_rng(7).normal(size=(2, 12, 5))
    views[1, 3, 2] = bad
    assert np.isnan(function(views))


def test_sigmoid_loss_is_the_mean_over_pairs_of_views():
    views = np.random.default_rng(6).normal(size=(3, 6, 4))
    pairs = [sigmoid_loss(views[[i, j]]) for i, j in [(0, 1), (0, 2), (1, 2)]]
    np.testing.assert_allclose(sigmoid_loss(views), np.mean(pairs), rtol=1e-12)


def test_labels_of_the_wrong_length_are_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=r"labels must have shape \[n\] = \(4,\), got \(3,\)"):
        supervised_contrastive(np.ones((2, 4, 3)), np.arange(3))
