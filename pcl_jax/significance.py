"""Statistics of a handful of runs (paper, section 4.2)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from pcl_jax.arrays import Array


class Interval(NamedTuple):
    mean: float
    half_width: float
    """Of the 95 % confidence interval; NaN for fewer than two values."""


def t_interval(values: Sequence[float] | Float[Array, " n"], confidence: float = 0.95) -> Interval:
    """Mean of independent values and Student's t confidence interval, `t * s / sqrt(n)`.

    >>> t_interval([1.0, 2.0, 3.0])  # doctest: +ELLIPSIS
    Interval(mean=2.0, half_width=2.484...)
    """
    x = np.asarray(values, float)
    if len(x) < 2:
        return Interval(float(x.mean()), float("nan"))
    t = stats.t.ppf((1 + confidence) / 2, len(x) - 1)
    return Interval(float(x.mean()), float(t * x.std(ddof=1) / np.sqrt(len(x))))


def mann_whitney(x: Sequence[float] | Float[Array, " n"], y: Sequence[float] | Float[Array, " m"]) -> float:
    """Two-sided p of the Mann-Whitney U test, the paper's test: exact, but with ties approximate.

    scipy's own choice is exact only up to eight values a side; the paper has ten. The test takes all
    values for independent: repeats that share test folds and subsets are not.
    """
    ties = len(np.unique(np.concatenate([x, y]))) < len(x) + len(y)
    method = "asymptotic" if ties else "exact"
    return float(stats.mannwhitneyu(x, y, alternative="two-sided", method=method).pvalue)
