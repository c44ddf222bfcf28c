"""Intervals and significance tests for a few repeated runs (paper, section 4.2)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from pcl_jax.arrays import Array

MOST_EXACT = 200
"""Number of values up to which the Mann-Whitney test is exact; its time grows with the fourth power."""


class Interval(NamedTuple):
    """A mean and the half-width of its confidence interval, which is NaN for fewer than two values."""

    mean: float
    half_width: float


def t_interval(values: Sequence[int | float] | Float[Array, " n"], confidence: float = 0.95) -> Interval:
    """Compute the mean of independent values and Student's t confidence interval, `t * s / sqrt(n)`.

    Args:
        values: One value per run, `[n]`.
        confidence: Coverage of the interval.

    Returns:
        The mean and the half-width; the half-width is NaN for fewer than two values.

    Example:
        >>> t_interval([1.0, 2.0, 3.0])  # doctest: +ELLIPSIS
        Interval(mean=2.0, half_width=2.484...)
    """
    x = np.asarray(values, float)
    if len(x) < 2:
        return Interval(float(x.mean()), float("nan"))
    t = stats.t.ppf((1 + confidence) / 2, len(x) - 1)
    return Interval(float(x.mean()), float(t * x.std(ddof=1) / np.sqrt(len(x))))


def paired_uar(
    truth: Int[np.ndarray, " n"],
    first: Float[np.ndarray, " n"],
    second: Float[np.ndarray, " n"],
    confidence: float = 0.95,
) -> Interval:
    """Compute the difference in UAR of two methods on the same utterances, and its interval.

    The difference is the mean over classes of the mean over the class's utterances of `first - second`. With
    independent utterances its variance is the sum over classes of `s_c^2 / (n_c C^2)`, where `s_c^2` is the
    sample variance within a class; Student's t has n - C degrees of freedom.

    Args:
        truth: Class of each utterance, `[n]`.
        first: Whether the first method classified each utterance rightly, `[n]`; of several runs the mean.
        second: The same of the second method.
        confidence: Coverage of the interval.

    Returns:
        The difference and the half-width; the half-width is NaN if a class has a single utterance.

    Example:
        >>> truth = np.array([0, 0, 0, 1, 1, 1])
        >>> first, second = np.array([1.0, 1, 1, 1, 1, 0]), np.array([0.0, 1, 1, 1, 0, 0])
        >>> print(f"{paired_uar(truth, first, second).mean:.3f}")
        0.333
    """
    differences = [(first - second)[truth == c] for c in np.unique(truth)]
    squares = sum(x.var(ddof=1) / len(x) if len(x) > 1 else np.nan for x in differences)
    t = stats.t.ppf((1 + confidence) / 2, len(truth) - len(differences))
    mean = float(np.mean([x.mean() for x in differences]))
    return Interval(mean, float(t * np.sqrt(squares) / len(differences)))


def mann_whitney(
    x: Sequence[int | float] | Float[Array, " n"], y: Sequence[int | float] | Float[Array, " m"]
) -> float:
    """Compute the two-sided p-value of the Mann-Whitney U test, the paper's test.

    With up to 200 values it is the exact permutation test, with and without ties: twice the smaller tail of
    the rank sum over all C(n + m, n) ways to divide the values. With more it is the normal approximation,
    corrected for ties and continuity. SciPy's default is exact only without ties and if one side has at most
    eight values; the paper has ten. The p-value of n against m values is at least 2 / C(n + m, n): 0.1 for
    three against three.

    The test assumes that all values are independent. Repeats that share test folds and labelled subsets are
    not: see `wilcoxon`.

    Args:
        x: Values of the first method, `[n]`.
        y: Values of the second method, `[m]`.

    Returns:
        The p-value; NaN if a side has no values or a value is NaN.

    Example:
        >>> mann_whitney([50.0, 50.0, 51.0], [52.0, 53.0, 53.0])
        0.1

    References:
        Mann and Whitney, On a test of whether one of two random variables is stochastically larger than the
        other, Annals of Mathematical Statistics, 1947; for ties, Lehmann, Nonparametrics, 1975, section 1.4.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    values = np.concatenate([x, y])
    if not (len(x) and len(y)) or np.isnan(values).any():
        return float("nan")
    if len(values) > MOST_EXACT:
        return float(stats.mannwhitneyu(x, y, method="asymptotic").pvalue)
    # Midranks of ties are multiples of one half.
    ranks = np.rint(2 * stats.rankdata(values)).astype(int)
    rank_sum = ranks[: len(x)].sum()
    counts = _rank_sum_counts(ranks, len(x))
    tail = min(counts[: rank_sum + 1].sum(), counts[rank_sum:].sum())
    return min(1.0, float(2 * tail / counts.sum()))


def _rank_sum_counts(ranks: Int[np.ndarray, " n"], size: int) -> Float[np.ndarray, " sums"]:
    """Count, for each sum, the subsets of `size` ranks that have it, by dynamic programming."""
    counts = np.zeros((size + 1, ranks.sum() + 1))
    counts[0, 0] = 1
    for rank in ranks:
        counts[1:, rank:] += counts[:-1, :-rank]
    return counts[size]


def bootstrap_interval(
    values: Sequence[int | float] | Float[Array, " n"], confidence: float = 0.95, *, seed: int = 0
) -> tuple[float, float]:
    """Compute the bias-corrected and accelerated bootstrap interval of the mean, with 9,999 resamples.

    It is too narrow for a handful of values: with three values, the resamples have ten different means.
    Prefer `t_interval` in that case.

    Args:
        values: One value per run, `[n]`.
        confidence: Coverage of the interval.
        seed: Seed of the resampling.

    Returns:
        The lower and the upper bound; NaN for fewer than two values.

    Example:
        >>> low, high = bootstrap_interval([1.0, 2.0, 4.0, 8.0, 9.0])
        >>> 1 < low < 4.8 < high < 9
        True

    References:
        Efron, Better bootstrap confidence intervals, Journal of the American Statistical Association, 1987.
    """
    x = np.asarray(values, float)
    if len(x) < 2:
        return float("nan"), float("nan")
    if np.ptp(x) == 0:
        return float(x[0]), float(x[0])
    result = stats.bootstrap((x,), np.mean, confidence_level=confidence, rng=np.random.default_rng(seed))
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def wilcoxon(
    x: Sequence[int | float] | Float[Array, " n"], y: Sequence[int | float] | Float[Array, " n"]
) -> float:
    """Compute the two-sided p-value of the Wilcoxon signed-rank test, for runs that are paired.

    Repeats of two methods are pairs if they share their labelled subset. The p-value is exact. With ties or
    differences of zero (ranked after Pratt) it is computed over all sign flips for up to 13 pairs, and over a
    seeded sample of 9,999 flips for more. With n pairs p is at least 2^(1 - n): 0.25 for three pairs, 0.002
    for ten.

    Args:
        x: One value per repeat of the first method, `[n]`.
        y: Values of the second method for the same repeats, `[n]`.

    Returns:
        The p-value; 1 if no pair differs.

    Example:
        >>> wilcoxon([3.0, 4.0, 6.0], [2.0, 2.0, 3.0])
        0.25

    References:
        Pratt, Remarks on zeros and ties in the Wilcoxon signed rank procedures, Journal of the American
        Statistical Association, 1959.
    """
    difference = np.asarray(x, float) - np.asarray(y, float)
    if not difference.any():
        return 1.0
    sizes = np.abs(difference)
    method: Any = "exact"
    if not sizes.all() or len(np.unique(sizes)) < len(sizes):
        method = stats.PermutationMethod(n_resamples=9999, rng=np.random.default_rng(0))
    result: Any = stats.wilcoxon(difference, zero_method="pratt", method=method)
    return float(result.pvalue)


def cliffs_delta(
    x: Sequence[int | float] | Float[Array, " n"], y: Sequence[int | float] | Float[Array, " m"]
) -> float:
    """Compute Cliff's delta, `P(x > y) - P(x < y)` over all pairs of values: an effect size.

    Args:
        x: Values of the first method, `[n]`.
        y: Values of the second method, `[m]`.

    Returns:
        A number in [-1, 1]; 0 where neither method tends to be greater.

    Example:
        >>> cliffs_delta([3, 4], [1, 2]), cliffs_delta([1, 4], [2, 3])
        (1.0, 0.0)

    References:
        Cliff, Dominance statistics: ordinal analyses to answer ordinal questions, Psychological Bulletin,
        1993.
    """
    return float(np.sign(np.subtract.outer(np.asarray(x), np.asarray(y))).mean())


def holm(p: Sequence[int | float] | Float[Array, " n"]) -> Float[np.ndarray, " n"]:
    """Adjust the p-values of a family of tests after Holm (1979).

    A test whose adjusted p-value is below alpha is significant at the family-wise level alpha.

    Args:
        p: One p-value per test, `[n]`; NaN for a test that was not done.

    Returns:
        Adjusted p-values `[n]`. NaN stays NaN and does not count as a test.

    Example:
        >>> holm([0.01, 0.04, 0.03]).tolist()
        [0.03, 0.06, 0.06]

    References:
        Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics,
        1979.
    """
    p = np.asarray(p, float)
    adjusted = np.full(p.shape, np.nan)
    tests = np.flatnonzero(np.isfinite(p))
    order = tests[np.argsort(p[tests], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1) if len(order) else steps
    return adjusted
