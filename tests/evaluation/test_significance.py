"""Intervals and significance tests, compared with values computed by hand."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pcl_jax.evaluation.significance import (
    bootstrap_interval,
    cliffs_delta,
    holm,
    mann_whitney,
    t_interval,
    wilcoxon,
)


def test_t_interval_equals_the_one_computed_by_hand():
    """x = 1..5: s = sqrt(2.5), t(0.975, 4) = 2.776445 from a printed table."""
    mean, half = t_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert mean == 3
    assert half == pytest.approx(2.776445 * np.sqrt(2.5 / 5), rel=1e-6)


def test_the_interval_of_one_value_is_nan():
    assert np.isnan(t_interval([0.5]).half_width)


def test_mann_whitney_of_ten_against_ten_without_overlap_is_exact():
    """Two of the C(20, 10) = 184,756 orders are this extreme."""
    assert mann_whitney(np.arange(10.0), np.arange(10.0, 20.0)) == pytest.approx(2 / 184_756)


def mann_whitney_by_enumeration(x, y):
    """Count pairs x > y, half for ties, for every way to choose which values are x."""
    values = [*x, *y]

    def statistic(chosen):
        rest = [values[i] for i in range(len(values)) if i not in chosen]
        return sum((values[i] > v) + (values[i] == v) / 2 for i in chosen for v in rest)

    observed = statistic(range(len(x)))
    null = [statistic(chosen) for chosen in combinations(range(len(values)), len(x))]
    lower, upper = (sum(u <= observed for u in null), sum(u >= observed for u in null))
    return min(1, 2 * min(lower, upper) / len(null))


def test_mann_whitney_of_three_against_three_is_at_least_a_tenth_with_ties_too():
    """Two of the C(6, 3) = 20 orders are the most extreme; the normal approximation gives 0.047 with ties."""
    assert mann_whitney([1, 2, 3], [4, 5, 6]) == pytest.approx(0.1)
    assert mann_whitney([1, 1, 1], [2, 2, 2]) == pytest.approx(0.1)
    assert mann_whitney([50.0, 50.0, 51.0], [52.0, 53.0, 53.0]) == pytest.approx(0.1)


few = st.lists(st.integers(0, 4), min_size=1, max_size=5)


@given(few, few)
@settings(derandomize=True, deadline=None)
def test_mann_whitney_with_ties_equals_brute_force_enumeration(x, y):
    assert mann_whitney(x, y) == pytest.approx(mann_whitney_by_enumeration(x, y), rel=1e-12)


def test_mann_whitney_of_ten_against_ten_with_ties_equals_enumeration():
    """All 184,756 choices, by sums of midranks because pairs would take minutes."""
    x = [60, 61, 61, 62, 63, 63, 64, 65, 66, 67]
    y = [58, 59, 60, 60, 61, 61, 62, 63, 64, 64]
    ranks = stats.rankdata([*x, *y])
    null = np.array([ranks[list(chosen)].sum() for chosen in combinations(range(20), 10)])
    expected = 2 * np.mean(null >= ranks[:10].sum())
    assert 0 < expected < 1
    assert mann_whitney(x, y) == pytest.approx(expected, rel=1e-12)
    assert mann_whitney(y, x) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("sizes", [(3, 4), (10, 10), (12, 30)])
def test_mann_whitney_without_ties_equals_scipy_exact(sizes):
    x, y = (np.random.default_rng(1).normal(size=n) + shift for n, shift in zip(sizes, (0, 0.3), strict=True))
    expected = stats.mannwhitneyu(x, y, method="exact").pvalue
    assert mann_whitney(x, y) == pytest.approx(expected, rel=1e-12)


def test_mann_whitney_of_many_values_agrees_with_the_exact_test_at_the_change_to_the_approximation():
    """100 against 100 is exact; with one more value it is approximate. Both are rounded to make ties."""
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=101).round(1), rng.normal(0.25, size=100).round(1)
    exact = mann_whitney(x[:100], y)
    assert exact == pytest.approx(stats.mannwhitneyu(x[:100], y, method="asymptotic").pvalue, rel=0.01)
    assert mann_whitney(x, y) == stats.mannwhitneyu(x, y, method="asymptotic").pvalue


def test_mann_whitney_without_values_or_with_nan_is_nan():
    assert np.isnan(mann_whitney([], [1.0]))
    assert np.isnan(mann_whitney([1.0, np.nan], [1.0, 2.0]))


def test_wilcoxon_equals_the_share_of_sign_flips_counted_by_hand():
    """Differences 1, 2, 3.5 and -1.5 have positive ranks 1, 3, 4 and negative rank 2.

    Of 16 sign flips, three have a sum of negative ranks of at most 2 (none, {1}, {2}), and three a sum of
    positive ranks of at most 2.
    """
    x, y = np.array([1, 2, 3.5, 0]), np.array([0, 0, 0, 1.5])
    assert wilcoxon(x, y) == pytest.approx(6 / 16)
    assert wilcoxon(x, y) == wilcoxon(y, x)


def test_wilcoxon_with_ties_and_zero_differences():
    """Pratt gives the zero rank 1, then 2.5, 2.5, 4, all positive: one of 2^3 flips, two-sided."""
    assert wilcoxon([0, 1, 1, 2], [0, 0, 0, 0]) == pytest.approx(2 / 8)
    assert wilcoxon([1, 2], [1, 2]) == 1


def test_cliffs_delta_counts_pairs():
    """Of nine pairs, x is greater in six, smaller in two and equal in one."""
    assert cliffs_delta([2, 4, 6], [1, 2, 5]) == pytest.approx((6 - 2) / 9)
    assert cliffs_delta([1, 2], [2, 1]) == 0


def test_holm_equals_values_by_hand_and_ignores_a_test_that_was_not_done():
    """0.005 x 4, then the running maximum of 0.01 x 3, 0.03 x 2, 0.04 x 1 (Holm 1979, section 3)."""
    np.testing.assert_allclose(holm([0.04, 0.01, np.nan, 0.03, 0.005]), [0.06, 0.03, np.nan, 0.06, 0.02])
    assert holm([0.6, 0.7]).tolist() == [1, 1]
    assert len(holm([])) == 0


def test_bootstrap_interval_has_its_stated_coverage():
    """300 skewed samples of 30: 0.95 within three binomial standard errors, less the known loss of BCa."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        low, high = bootstrap_interval(rng.exponential(size=30))
        covered += low <= 1 <= high
    assert 0.89 <= covered / 300 <= 0.985


def test_bootstrap_interval_of_one_value_is_nan_and_of_equal_values_a_point():
    assert np.isnan(bootstrap_interval([1.0])).all()
    assert bootstrap_interval([2.0, 2.0, 2.0]) == (2, 2)
