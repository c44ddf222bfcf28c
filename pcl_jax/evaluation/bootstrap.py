"""Bootstrap over test speakers and labelled subsets at once: how sure a UAR, or a difference of two, is.

A result on few labels varies for two reasons: which utterances were labelled, and which speakers were
tested. An interval over repeats alone ignores the second.
"""

from typing import NamedTuple
from zlib import crc32

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

RESAMPLES = 9_999


class Estimate(NamedTuple):
    """UAR of a method or difference of two methods' UAR, at most 1; NaN where it cannot be told."""

    value: float
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end."""
    above: float
    """Share of the resamples above zero, ties half: of a difference, P(A > B)."""
    p: float
    """Two-sided p-value of zero: Student's t with the bootstrap's standard error."""


def bootstrap_uar(
    right: Float[np.ndarray, "r s c"],
    total: Int[np.ndarray, "s c"],
    confidence: float = 0.95,
    *,
    seed: int = 0,
) -> Estimate:
    r"""Compute the mean UAR over repeats, and its interval over speakers and repeats.

    $$\mathrm{UAR} = \frac{1}{C} \sum_c \frac{\frac{1}{R} \sum_{r, s} \mathrm{right}_{rsc}}
      {\sum_s \mathrm{total}_{sc}}$$

    It is linear in `right`: the difference of two methods that were tested on the same utterances with the
    same labels is `bootstrap_uar(right_a - right_b, total)`, and a mean over amounts of labels is that of
    their means.

    Each resample draws speakers with replacement and, independently, repeats with replacement (the pigeonhole
    bootstrap). Its intervals are too wide where neither speakers nor repeats matter, and percentiles are too
    narrow for a handful of speakers. The latter is corrected: percentiles are those of the expanded interval,
    which uses Student's t and the unbiased variance.

    Args:
        right: Utterances that are right, in each repeat, of each speaker and class.
        total: All utterances of each speaker and class. Classes without any count as recall 0, as in
            `metrics.uar`; those that only a resample lacks are left out of it.
        confidence: Coverage of the interval.
        seed: Seed of the resampling; equal seeds draw equal speakers and repeats.

    Returns:
        The estimate; low, high and p are NaN for a single speaker, all for none.

    Example:
        >>> right, total = np.array([[[8.0, 6.0], [4.0, 2.0]]]), np.array([[10, 10], [10, 10]])
        >>> estimate = bootstrap_uar(right, total)
        >>> estimate.value, round(estimate.low, 1), round(estimate.high, 1)
        (0.5, 0.3, 0.7)

    References:
        Owen, The pigeonhole bootstrap, Annals of Applied Statistics, 2007. Hesterberg, What teachers should
        know about the bootstrap, The American Statistician, 2015, section 5 (expanded percentiles).
    """
    repeats, speakers, _ = right.shape
    if not repeats or not total.sum():
        return Estimate(*[float("nan")] * 5)
    every = np.ones((1, repeats)), np.ones((1, speakers))
    value = float(_uar(right, total, *every)[0])
    if speakers < 2:
        return Estimate(value, float("nan"), float("nan"), float("nan"), float("nan"))
    rng = np.random.default_rng([seed, crc32(b"bootstrap"), speakers, repeats])
    drawn_speakers = rng.multinomial(speakers, [1 / speakers] * speakers, size=RESAMPLES)
    drawn_repeats = rng.multinomial(repeats, [1 / repeats] * repeats, size=RESAMPLES)
    draws = _uar(right, total, drawn_repeats, drawn_speakers)
    widening = np.sqrt(speakers / (speakers - 1))
    quantile = stats.t.ppf((1 + confidence) / 2, speakers - 1)
    tail = stats.norm.sf(widening * quantile)
    low, high = np.quantile(draws, [tail, 1 - tail])
    above = float((np.sign(draws).mean() + 1) / 2)
    error = widening * draws.std()
    if error == 0:
        return Estimate(value, value, value, above, 1.0 if value == 0 else 0.0)
    return Estimate(
        value, float(low), float(high), above, float(2 * stats.t.sf(abs(value) / error, speakers - 1))
    )


def _uar(
    right: Float[np.ndarray, "r s c"] | Int[np.ndarray, "r s c"],
    total: Int[np.ndarray, "s c"],
    repeats: Float[np.ndarray, "b r"] | Int[np.ndarray, "b r"],
    speakers: Float[np.ndarray, "b s"] | Int[np.ndarray, "b s"],
) -> Float[np.ndarray, " b"]:
    """Return the UAR of each resample, which holds each repeat and each speaker so many times."""
    known, r = total.sum(axis=0) > 0, right.shape[0]
    hits = (repeats / r @ right.reshape(r, -1).astype(float)).reshape(-1, *total.shape)
    counts = speakers @ total
    recalls = np.einsum("bs,bsc->bc", speakers.astype(float), hits) / np.maximum(counts, 1)
    left = (counts > 0) | ~known
    return recalls.sum(axis=1, where=left) / np.maximum(left.sum(axis=1), 1)
