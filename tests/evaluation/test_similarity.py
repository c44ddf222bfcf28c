"""PWCCA against a generalised eigenproblem, its invariances and its random baseline; CKA against HSIC."""

import numpy as np
import pytest
from scipy.linalg import eigh

from pcl_jax.evaluation.similarity import linear_cka, pwcca, rank

RNG = np.random.default_rng(0)


def pwcca_by_eigenvalues(x: np.ndarray, y: np.ndarray) -> float:
    """Compute the definition by covariances and a generalised eigenproblem, without SVDs."""
    x, y = x - x.mean(0), y - y.mean(0)
    sxx, syy, sxy = x.T @ x, y.T @ y, x.T @ y
    values, directions = eigh(
        sxy @ np.linalg.solve(syy, sxy.T), sxx
    )  # directions.T @ sxx @ directions = identity
    k = min(x.shape[1], y.shape[1])
    rho = np.sqrt(np.clip(values[::-1][:k], 0, 1))
    variates = x @ directions[:, ::-1][:, :k]
    alpha = np.abs(variates.T @ x).sum(axis=1)
    return float(alpha @ rho / alpha.sum())


@pytest.mark.parametrize(("d1", "d2"), [(5, 5), (8, 3), (3, 8)])
def test_pwcca_agrees_with_the_generalised_eigenproblem_in_both_orders(d1, d2):
    shared = RNG.normal(size=(200, 3))
    x = shared @ RNG.normal(size=(3, d1)) * [2.0**i for i in range(d1)] + RNG.normal(size=(200, d1))
    y = shared @ RNG.normal(size=(3, d2)) + 0.5 * RNG.normal(size=(200, d2))
    assert pwcca(x, y) == pytest.approx(pwcca_by_eigenvalues(x, y), rel=1e-6)
    assert pwcca(y, x) == pytest.approx(pwcca_by_eigenvalues(y, x), rel=1e-6)


def test_pwcca_is_invariant_to_an_invertible_map_of_the_second_argument():
    x, y = RNG.normal(size=(100, 4)), RNG.normal(size=(100, 6))
    mixed = y @ RNG.normal(size=(6, 6)) + 3
    assert pwcca(x, mixed) == pytest.approx(pwcca(x, y), rel=1e-9)
    assert pwcca(x, x @ RNG.normal(size=(4, 4))) == pytest.approx(1)


def test_pwcca_ignores_dead_and_copied_units():
    x, y = RNG.normal(size=(100, 4)), RNG.normal(size=(100, 6))
    dead = np.concatenate([y, np.zeros((100, 3)), y[:, :1]], axis=1)
    assert pwcca(x, dead) == pytest.approx(pwcca(x, y), rel=1e-6)


def test_ranks_that_sum_to_more_than_the_utterances_force_perfect_correlations():
    """In n - 1 = 8 dimensions, spaces of ranks 5 and 3 may be orthogonal; 5 and 4 share a direction."""
    x, y = RNG.normal(size=(9, 5)), RNG.normal(size=(9, 4))
    assert 0 < pwcca(x, y[:, :3]) < 1
    bases = [np.linalg.svd(a - a.mean(0), full_matrices=False)[0] for a in (x, y)]
    correlations = np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)
    assert correlations[0] == pytest.approx(1)
    assert correlations[1] < 1 - 1e-6


def test_the_rank_leaves_out_dead_and_copied_units():
    x = RNG.normal(size=(30, 4))
    assert rank(x) == 4
    assert rank(np.concatenate([x, np.zeros((30, 3)), x[:, :1]], axis=1)) == 4
    assert rank(np.ones((30, 3))) == 0


def test_pwcca_of_random_data_equals_the_baseline_of_the_docstring():
    """128 against 128 dimensions: .44 at n = 500, .295 at n = 1085, measured with a separate script."""
    for n, expected in ((500, 0.44), (1085, 0.295)):
        x, y = RNG.normal(size=(n, 128)), RNG.normal(size=(n, 128))
        assert pwcca(x, y) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.ones((5, 2)), np.ones((6, 2)), "5 utterances"),
        (np.ones((9, 2)), RNG.normal(size=(9, 2)), "rank 0"),
        (RNG.normal(size=(9, 2)), RNG.normal(size=(9, 20)), "more utterances or fewer dimensions"),
        (RNG.normal(size=(173, 128)), RNG.normal(size=(173, 128)), r"84 of the 128 .* are 1"),
        (RNG.normal(size=(9, 5)), RNG.normal(size=(9, 4)), r"1 of the 4 .* are 1"),
        (np.full((9, 2), np.nan), RNG.normal(size=(9, 2)), "not finite"),
    ],
)
def test_pwcca_without_a_meaning_is_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        pwcca(x, y)


def test_cka_equals_the_alignment_of_centred_gram_matrices():
    """The expected value is computed by n x n kernels and HSIC, without d x d products."""
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


def test_cka_of_independent_data_is_small_and_of_a_constant_refused():
    assert linear_cka(RNG.normal(size=(2000, 10)), RNG.normal(size=(2000, 10))) < 0.02
    with pytest.raises(ValueError, match="constant"):
        linear_cka(np.ones((9, 2)), RNG.normal(size=(9, 2)))
    with pytest.raises(ValueError, match="9 utterances, y has 8"):
        linear_cka(np.ones((9, 2)), np.ones((8, 2)))
