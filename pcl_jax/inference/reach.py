"""Reach: how far a clip may lie from the training data before its prediction deserves a warning."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

QUANTILE = 0.99
"""Share of the training clips that lie within the reach."""
_LARGEST = 10.0
"""Standard deviations to which one feature counts: a single outlier among eGeMAPS is no strange voice."""


class Reach(NamedTuple):
    """Statistics of the training clips, and the distance within which most of them lie."""

    means: Mapping[str, np.ndarray]
    """Mean of each vector, view -> `[d]`."""
    scales: Mapping[str, np.ndarray]
    """Standard deviation of each vector."""
    limit: float
    """Distance that `QUANTILE` of the training clips do not exceed."""


def fit(vectors: Mapping[str, np.ndarray]) -> Reach:
    """Return the reach of training clips.

    Args:
        vectors: Vectors of the training clips, labelled or not, view -> `[n, d]`.
    """
    means, scales = {}, {}
    for name, rows in vectors.items():
        finite = np.where(np.isfinite(rows), rows, np.nan).astype(np.float64)
        known = np.isfinite(finite).any(axis=0)
        finite[:, ~known] = 0.0
        means[name] = np.nanmean(finite, axis=0).astype(np.float32)
        scales[name] = np.maximum(np.nanstd(finite, axis=0), 1e-6).astype(np.float32)
    reach = Reach(means, scales, np.inf)
    return reach._replace(limit=float(np.quantile(distances(reach, vectors), QUANTILE)))


def distances(reach: Reach, vectors: Mapping[str, np.ndarray]) -> Float[np.ndarray, " n"]:
    """Return the mean absolute deviation of each clip, in standard deviations of the training clips.

    Args:
        reach: Statistics of the training clips.
        vectors: Vectors of clips, view -> `[n, d]`; values that are not finite count as the mean.

    Example:
        >>> reach = fit({"mel": np.array([[0.0], [2.0]])})
        >>> distances(reach, {"mel": np.array([[1.0], [4.0]])}).tolist()
        [0.0, 3.0]
    """
    parts = []
    for name, mean in reach.means.items():
        z = np.abs((vectors[name] - mean) / reach.scales[name])
        parts.append(np.minimum(np.where(np.isfinite(z), z, 0.0), _LARGEST).mean(axis=1))
    return np.mean(parts, axis=0)
