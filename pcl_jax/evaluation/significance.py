"""Statistics of a handful of runs (paper, section 4.2)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from pcl_jax.arrays import Array


class Interval(NamedTuple):
    mean: float
    half_width: float
    """Of the 95 % confidence interval; NaN for fewer than two values."""


def t_interval(values: Sequence[int | float] | Float[Array, " n"], confidence: float = 0.95) -> Interval:
    """Mean of independent values and Student's t confidence interval, `t * s / sqrt(n)`.

    >>> t_interval([1.0, 2.0, 3.0])  # doctest: +ELLIPSIS
    Interval(mean=2.0, half_width=2.484...)
    """
    x = np.asarray(values, float)
    if len(x) < 2:
        return Interval(float(x.mean()), float("nan"))
    t = stats.t.ppf((1 + confidence) / 2, len(x) - 1)
    return Interval(float(x.mean()), float(t * x.std(ddof=1) / np.sqrt(len(x))))


def mann_whitney(
    x: Sequence[int | float] | Float[Array, " n"], y: Sequence[int | float] | Float[Array, " m"]
) -> float:
    """Two-sided p of the Mann-Whitney U test, the paper's test: exact, but with ties approximate.

    scipy's own choice is exact only up to eight values a side; the paper has ten. The test takes all
    values for independent: repeats that share test folds and subsets are not.
    """
    ties = len(np.unique(np.concatenate([x, y]))) < len(x) + len(y)
    method = "asymptotic" if ties else "exact"
    return float(stats.mannwhitneyu(x, y, alternative="two-sided", method=method).pvalue)


def bootstrap_interval(
    values: Sequence[int | float] | Float[Array, " n"], confidence: float = 0.95, *, seed: int = 0
) -> tuple[float, float]:
    """Bias-corrected and accelerated bootstrap interval of the mean (Efron 1987), 9,999 resamples.

    NaN for fewer than two values. For a handful of values it is too narrow: with three, the resamples have
    ten different means. Believe the t-interval then.

    >>> low, high = bootstrap_interval([1.0, 2.0, 4.0, 8.0, 9.0])
    >>> 1 < low < 4.8 < high < 9
    True
    """
    x = np.asarray(values, float)
    if len(x) < 2:
        return float("nan"), float("nan")
    if np.ptp(x) == 0:
        return float(x[0]), float(x[0])
    found = stats.bootstrap((x,), np.mean, confidence_level=confidence, rng=np.random.default_rng(seed))
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def wilcoxon(
    x: Sequence[int | float] | Float[Array, " n"], y: Sequence[int | float] | Float[Array, " n"]
) -> float:
    """Two-sided p of the Wilcoxon signed-rank test of pairs: repeats that share their subset.

    Exact; with ties or pairs that do not differ (Pratt's way) over all sign flips up to 13 pairs, a sample
    of 9,999 beyond. With n pairs p cannot fall below 2^(1 - n): 0.25 for three, 0.002 for ten.
    1 where no pair differs.
    """
    difference = np.asarray(x, float) - np.asarray(y, float)
    if not difference.any():
        return 1.0
    sizes = np.abs(difference)
    method: Any = "exact"
    if not sizes.all() or len(np.unique(sizes)) < len(sizes):
        method = stats.PermutationMethod(n_resamples=9999, rng=np.random.default_rng(0))
    found: Any = stats.wilcoxon(difference, zero_method="pratt", method=method)
    return float(found.pvalue)


def cliffs_delta(
    x: Sequence[int | float] | Float[Array, " n"], y: Sequence[int | float] | Float[Array, " m"]
) -> float:
    """How much more often a value of `x` is above one of `y` than below (Cliff 1993): -1 to 1, 0 for alike.

    >>> cliffs_delta([3, 4], [1, 2]), cliffs_delta([1, 4], [2, 3])
    (1.0, 0.0)
    """
    return float(np.sign(np.subtract.outer(np.asarray(x), np.asarray(y))).mean())


def holm(p: Sequence[int | float] | Float[Array, " n"]) -> Float[np.ndarray, " n"]:
    """p-values of a family of tests, adjusted after Holm (1979): below alpha, a test stands at that
    family-wise level. NaN (a test that was not done) stays and does not count.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p, float)
    adjusted = np.full(p.shape, np.nan)
    done = np.flatnonzero(np.isfinite(p))
    order = done[np.argsort(p[done], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1) if len(order) else steps
    return adjusted
