"""Intervals and the U test by hand and by published examples."""

import numpy as np
import pytest

from pcl_jax.significance import mann_whitney, t_interval


def test_t_interval_by_hand():
    """x = 1..5: s = sqrt(2.5), t(0.975, 4) = 2.776445 from a printed table."""
    mean, half = t_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert mean == 3
    assert half == pytest.approx(2.776445 * np.sqrt(2.5 / 5), rel=1e-6)


def test_one_value_has_no_interval():
    assert np.isnan(t_interval([0.5]).half_width)


def test_u_test_of_ten_against_ten_that_do_not_overlap_is_exact():
    """Two of the C(20, 10) = 184,756 orders are as extreme."""
    assert mann_whitney(np.arange(10.0), np.arange(10.0, 20.0)) == pytest.approx(2 / 184_756)
