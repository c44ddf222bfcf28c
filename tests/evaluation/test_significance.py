"""Intervals and significance tests, compared with values computed by hand."""

import numpy as np
import pytest

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
