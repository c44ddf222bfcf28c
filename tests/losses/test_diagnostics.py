"""Retrieval by sorting in float64; alignment and uniformity against their authors' PyTorch code."""

from pathlib import Path

import jax
import jax.numpy as jnp
import loops
import numpy as np
import pytest

from pcl_jax.losses import alignment, retrieval_accuracy, uniformity

REFERENCE = dict(np.load(Path(__file__).parents[1] / "reference" / "losses_torch.npz"))


def random_views(seed, k, n, d):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) + rng.normal(size=(k, n, d))).astype("f")


def accuracy_by_sorting(anchors, candidates, k, anchor_present, candidate_present):
    anchors, candidates = np.float64(anchors), np.float64(candidates)
    hits = []
    rows = np.flatnonzero(candidate_present)
    for row in rows[anchor_present[rows]]:
        nearest = sorted(rows, key=lambda m: -loops.cosine(anchors[row], candidates[m]))[:k]
        hits.append(row in nearest)
    return np.mean(hits) if hits else np.nan


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("k", [1, 5])
def test_retrieval_accuracy_agrees_with_sorting(k, masked):
    views = random_views(0, 3, 40, 8)
    mask = np.random.default_rng(1).random((3, 40)) < 0.7 if masked else np.ones((3, 40), bool)
    accuracy = retrieval_accuracy(views, k, mask if masked else None)
    for i in range(3):
        for j in range(3):
            expected = accuracy_by_sorting(views[i], views[j], k, mask[i], mask[j])
            np.testing.assert_allclose(accuracy[i, j], expected, rtol=1e-6)
    assert 0.1 < accuracy[0, 1] < 1


def test_retrieval_accuracy_of_more_anchors_than_one_batch_agrees_with_sorting():
    views = random_views(2, 2, 300, 4)
    np.testing.assert_allclose(
        retrieval_accuracy(views)[0, 1], accuracy_by_sorting(*views, 1, *np.ones((2, 300), bool)), rtol=1e-6
    )


def test_ties_count_against_the_anchor():
    """Collapsed views retrieve nothing, where an argmax over equal numbers may find everything."""
    row = np.random.default_rng(3).normal(size=(1, 1, 33))
    lengths = np.random.default_rng(4).uniform(0.1, 10, (2, 50, 1))
    assert np.all(retrieval_accuracy((row * lengths).astype("f")) == 0)
    assert np.all(retrieval_accuracy(np.zeros((2, 50, 33), "f")) == 0)
    # Two duplicates lose only themselves, and only for k = 1.
    views = np.tile(np.eye(8, dtype="f"), (2, 1, 1))
    views[:, 1] = views[:, 0]
    np.testing.assert_allclose(retrieval_accuracy(views), 6 / 8)
    np.testing.assert_allclose(retrieval_accuracy(views, 2), 1)


def test_a_mapping_of_views_gives_results_by_name():
    mel, egemaps = random_views(5, 2, 30, 4)
    accuracy = retrieval_accuracy({"mel": mel, "egemaps": egemaps})
    array = retrieval_accuracy(np.stack([egemaps, mel]))
    assert accuracy == {("egemaps", "mel"): array[0, 1], ("mel", "egemaps"): array[1, 0]}
    assert set(alignment({"mel": mel, "egemaps": egemaps})) == set(accuracy)
    assert list(uniformity({"mel": mel, "egemaps": egemaps})) == ["egemaps", "mel"]


def test_alignment_and_uniformity_agree_with_the_code_of_wang_and_isola():
    with jax.enable_x64(True):
        views = REFERENCE["views"][:2]
        np.testing.assert_allclose(alignment(views)[0, 1], REFERENCE["lalign_2"], rtol=1e-12)
        np.testing.assert_allclose(alignment(views, alpha=1.0)[1, 0], REFERENCE["lalign_1"], rtol=1e-12)
        np.testing.assert_allclose(uniformity(views)[0], REFERENCE["lunif_2"], rtol=1e-12)
        np.testing.assert_allclose(uniformity(views, scale=3.0)[0], REFERENCE["lunif_3"], rtol=1e-12)


def test_a_batch_with_absent_rows_equals_the_smaller_batch():
    views = random_views(6, 3, 20, 4)
    mask = np.random.default_rng(6).random(20) < 0.7
    smaller = views[:, mask]
    views[:, ~mask] = np.nan
    for function in (alignment, uniformity, retrieval_accuracy):
        np.testing.assert_allclose(function(views, mask=mask), function(smaller), rtol=1e-5, atol=1e-6)


def test_an_absent_row_is_never_retrieved():
    """Its similarity is 0, which is nearer than the positive in this example."""
    views = np.array([[[1, 0], [0, -1], [0, 0]], [[-0.1, 1], [-1, 0], [0, 0]]], "f")
    mask = np.array([True, True, False])
    assert retrieval_accuracy(views, mask=mask)[0, 1] == 1
    assert retrieval_accuracy(views)[0, 1] == 0


def test_diagnostics_without_rows_are_nan():
    views, absent = random_views(7, 2, 6, 4), np.zeros((2, 6), bool)
    assert np.isnan(retrieval_accuracy(views, mask=absent)).all()
    assert np.isnan(alignment(views, mask=absent)).all()
    assert np.isnan(uniformity(views, mask=absent)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("function", [retrieval_accuracy, alignment, uniformity])
def test_a_row_that_is_not_finite_makes_the_diagnostics_of_its_view_nan(function, bad):
    """A diverged view must look diverged: its retrieval accuracy was 1 and its alignment 0."""
    views = random_views(8, 3, 20, 4)
    expected = np.array(function(views))
    views[1, 5, 2] = bad
    value = np.array(function(views))
    expected[1] = np.nan
    if expected.ndim == 2:
        expected[:, 1] = np.nan
    np.testing.assert_array_equal(value, expected)
    views[:] = bad
    assert np.isnan(function(views)).all()


@pytest.mark.parametrize("function", [retrieval_accuracy, alignment, uniformity])
def test_an_empty_batch_has_no_diagnostics(function):
    value = function(np.zeros((3, 0, 4), "f"))
    assert value.shape[0] == 3
    assert np.isnan(value).all()


def test_gradients_are_finite_where_rows_are_equal():
    views = jnp.ones((2, 5, 4))
    for function in (lambda v: alignment(v, alpha=1.0), uniformity):
        assert np.isfinite(jax.jit(jax.grad(lambda v, f=function: jnp.sum(f(v))))(views)).all()


def test_k_must_be_positive():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        retrieval_accuracy(np.ones((2, 3, 4)), 0)
