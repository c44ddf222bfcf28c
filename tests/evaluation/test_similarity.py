"""PWCCA against canonical correlations of another route, its invariances, its random baseline."""

import numpy as np
import pytest
from scipy.linalg import eigh

from pcl_jax.evaluation.similarity import linear_cka, pwcca

RNG = np.random.default_rng(0)


def by_eigenvalues(x: np.ndarray, y: np.ndarray) -> float:
    """The definition through covariances and a generalised eigenproblem, not through SVDs."""
    x, y = x - x.mean(0), y - y.mean(0)
    sxx, syy, sxy = x.T @ x, y.T @ y, x.T @ y
    values, directions = eigh(sxy @ np.linalg.solve(syy, sxy.T), sxx)  # directions' Sxx directions = 1
    k = min(x.shape[1], y.shape[1])
    rho = np.sqrt(np.clip(values[::-1][:k], 0, 1))
    variates = x @ directions[:, ::-1][:, :k]
    alpha = np.abs(variates.T @ x).sum(axis=1)
    return float(alpha @ rho / alpha.sum())


@pytest.mark.parametrize(("d1", "d2"), [(5, 5), (8, 3), (3, 8)])
def test_agrees_with_the_generalised_eigenproblem_in_both_orders(d1, d2):
    shared = RNG.normal(size=(200, 3))
    x = shared @ RNG.normal(size=(3, d1)) * [2.0**i for i in range(d1)] + RNG.normal(size=(200, d1))
    y = shared @ RNG.normal(size=(3, d2)) + 0.5 * RNG.normal(size=(200, d2))
    assert pwcca(x, y) == pytest.approx(by_eigenvalues(x, y), rel=1e-6)
    assert pwcca(y, x) == pytest.approx(by_eigenvalues(y, x), rel=1e-6)


def test_an_invertible_map_of_the_second_argument_changes_nothing():
    x, y = RNG.normal(size=(100, 4)), RNG.normal(size=(100, 6))
    mixed = y @ RNG.normal(size=(6, 6)) + 3
    assert pwcca(x, mixed) == pytest.approx(pwcca(x, y), rel=1e-9)
    assert pwcca(x, x @ RNG.normal(size=(4, 4))) == pytest.approx(1)


def test_dead_and_copied_units_say_nothing_new():
    x, y = RNG.normal(size=(100, 4)), RNG.normal(size=(100, 6))
    dead = np.concatenate([y, np.zeros((100, 3)), y[:, :1]], axis=1)
    assert pwcca(x, dead) == pytest.approx(pwcca(x, y), rel=1e-6)


def test_random_baseline_is_what_method_md_measured():
    """128 against 128 dimensions: .44 at n = 500, .295 at n = 1085 (method.md, part B, section 7)."""
    for n, expected in ((500, 0.44), (1085, 0.295)):
        x, y = RNG.normal(size=(n, 128)), RNG.normal(size=(n, 128))
        assert pwcca(x, y) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        (np.ones((5, 2)), np.ones((6, 2)), "5 utterances"),
        (np.ones((9, 2)), RNG.normal(size=(9, 2)), "rank 0"),
        (RNG.normal(size=(9, 2)), RNG.normal(size=(9, 20)), "more utterances or fewer dimensions"),
        (np.full((9, 2), np.nan), RNG.normal(size=(9, 2)), "not finite"),
    ],
)
def test_what_would_mean_nothing_is_refused(x, y, says):
    with pytest.raises(ValueError, match=says):
        pwcca(x, y)


def test_cka_is_the_alignment_of_centred_gram_matrices():
    """The definition through n x n kernels and HSIC, not through d x d products."""
    x, y = RNG.normal(size=(40, 5)), RNG.normal(size=(40, 3))
    y[:, 0] += x[:, 1]
    centre = np.eye(40) - 1 / 40
    k, m = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    expected = np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m))
    assert linear_cka(x, y) == pytest.approx(expected, rel=1e-12)
    assert linear_cka(y, x) == pytest.approx(expected, rel=1e-12)
    rotation, _ = np.linalg.qr(RNG.normal(size=(5, 5)))
    assert linear_cka(3 * x @ rotation + 1, y) == pytest.approx(expected, rel=1e-9)
    assert linear_cka(x @ np.diag([9, 1, 1, 1, 1]), y) != pytest.approx(expected, rel=1e-2)


def test_cka_of_independent_data_is_small_and_of_nothing_an_error():
    assert linear_cka(RNG.normal(size=(2000, 10)), RNG.normal(size=(2000, 10))) < 0.02
    with pytest.raises(ValueError, match="constant"):
        linear_cka(np.ones((9, 2)), RNG.normal(size=(9, 2)))
    with pytest.raises(ValueError, match="9 utterances, y 8"):
        linear_cka(np.ones((9, 2)), np.ones((8, 2)))
