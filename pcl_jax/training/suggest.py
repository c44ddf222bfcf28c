"""Active learning: which unlabelled utterances to label next.

While labels are few, typical utterances of each cluster teach a classifier most; its own doubts mean little
yet. Later, utterances that it is unsure of do, if they are not all alike (Hacohen et al., Active learning on
a budget: opposite strategies suit high and low budgets, ICML 2022). Arrays in, rows out.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits

from pcl_jax.arrays import Array
from pcl_jax.rng import seeded

FEW = 2
"""Labels per class, on average, below which typical utterances are suggested, and uncertain ones from there
on; RESULTS.md has 2 and 5."""
LARGEST_SAMPLE = 20_000
"""Utterances that are clustered at most; of more, a random sample is. Bounds time and memory."""
COMPONENTS = 128
"""Principal components in which distances are measured, where the vectors of all views are longer."""
_LEAST_OF_A_SPEAKER = 8
"""Utterances of a speaker from which the mean and deviation of that speaker are estimated."""
_NEIGHBOURS = 20
"""Neighbours over which the density around an utterance is measured [Hacohen et al.]."""
_PREFILTER = 10
"""Uncertain candidates for each utterance that is suggested (Zhdanov, Diverse mini-batch active learning,
2019, arXiv 1901.05954)."""

Reason = Literal["typical", "uncertain"]


class Suggestion(NamedTuple):
    """Utterance to label, and why."""

    row: int
    """Row of the given arrays."""
    reason: Reason


def suggest(
    vectors: Mapping[str, Float[np.ndarray, "n _"]],
    speakers: Sequence[str],
    labels: Int[np.ndarray, " n"],
    count: int,
    *,
    log_probabilities: Float[Array, "n c"] | None = None,
    seed: int = 0,
) -> list[Suggestion]:
    """Choose utterances to label next, the most useful first; the same for the same arguments.

    Args:
        vectors: View -> one row per utterance, labelled or not (`pcl_jax.data.vectors.pool`).
        speakers: The speaker of each utterance.
        labels: The class of each utterance; -1 where it has no label.
        count: Utterances to suggest; all that are unlabelled where there are fewer.
        log_probabilities: Predictions of a classifier that was trained on these labels. None: typical
            utterances, however many labels there are.
        seed: Seed of the clustering.

    Raises:
        ValueError: The arguments do not belong together, or `count` is less than 1.
    """
    sizes = {len(speakers), len(labels), *map(len, vectors.values())}
    if len(sizes) > 1 or not vectors:
        raise ValueError(f"vectors, speakers and labels are of {sorted(sizes)} utterances; give each one row")
    if count < 1:
        raise ValueError(f"count is {count}; give 1 or more")
    rows = _sample(labels, count, seed)
    voices = [speakers[int(row)] for row in rows]
    labelled = labels[rows] >= 0
    count = min(count, int((~labelled).sum()))
    if count == 0:
        return []
    x = points({view: values[rows] for view, values in vectors.items()}, voices)
    reason: Reason
    if log_probabilities is None or typical_is_better(labels):
        chosen, reason = choose_typical(x, voices, labelled, count, seed), "typical"
    else:
        predicted = np.asarray(log_probabilities, np.float64)[rows]
        chosen, reason = choose_uncertain(x, voices, labelled, predicted, count, seed), "uncertain"
    return [Suggestion(int(rows[row]), reason) for row in chosen]


def typical_is_better(labels: Int[np.ndarray, " n"]) -> bool:
    """Say whether labels are so few that typical utterances are worth more than uncertain ones.

    Example:
        >>> typical_is_better(np.array([0, 1, -1])), typical_is_better(np.array([0] * 6 + [1] * 6))
        (True, False)
    """
    known = labels[labels >= 0]
    return len(known) < FEW * max(2, len(np.unique(known)))


def points(
    vectors: Mapping[str, Float[np.ndarray, "n _"]], speakers: Sequence[str]
) -> Float[np.ndarray, "n d"]:
    """Return the vectors of all views side by side, each view with the same share of every distance.

    They are scaled within each speaker, or clusters would be the speakers; where a speaker has few rows, by
    all rows. Values that are not finite become the mean. Of many columns the principal components remain.
    """
    names = np.asarray(speakers)
    groups = [names == name for name in np.unique(names)]
    scaled = []
    for values in vectors.values():
        x = _standardise(values)
        for rows in groups:
            if rows.sum() >= _LEAST_OF_A_SPEAKER:
                x[rows] = _standardise(values[rows])
        scaled.append(x / np.sqrt(x.shape[1]))
    joined = np.concatenate(scaled, axis=1)
    if min(joined.shape) <= COMPONENTS:
        return joined
    return PCA(COMPONENTS, svd_solver="randomized", random_state=0).fit_transform(joined)


def choose_typical(
    x: Float[np.ndarray, "n d"],
    speakers: Sequence[str],
    labelled: Bool[np.ndarray, " n"],
    count: int,
    seed: int,
) -> list[int]:
    """Choose the most typical utterance of each of the largest clusters that have no label.

    There are as many clusters as labels after this batch, so that `count` of them have none, or nearly: the
    clusters with fewest labels come first, of these the largest [Hacohen et al.].
    """
    clusters = _cluster(x, min(len(x), int(labelled.sum()) + count), seed)
    heard = Counter(np.asarray(speakers)[labelled].tolist())
    known = Counter(clusters[labelled].tolist())
    left = {c: np.flatnonzero((clusters == c) & ~labelled).tolist() for c in np.unique(clusters).tolist()}
    sizes = Counter(clusters.tolist())
    chosen: list[int] = []
    while len(chosen) < count:
        cluster = min((c for c in left if left[c]), key=lambda c: (known[c], -sizes[c], c))
        members = left[cluster]
        density = _density(x, np.array(members), np.flatnonzero(clusters == cluster), seed)
        row = _spread(members, density, speakers, heard)
        members.remove(row)
        known[cluster] += 1
        heard[speakers[row]] += 1
        chosen.append(row)
    return chosen


def choose_uncertain(
    x: Float[np.ndarray, "n d"],
    speakers: Sequence[str],
    labelled: Bool[np.ndarray, " n"],
    log_probabilities: Float[np.ndarray, "n c"],
    count: int,
    seed: int,
) -> list[int]:
    """Choose utterances between two classes that lie in different clusters, the most uncertain first.

    The uncertainty is 1 less the margin between the two most probable classes. The most uncertain utterances
    are clustered, weighted by it; each cluster gives the one next to its centre [Zhdanov].
    """
    top = np.sort(np.exp(log_probabilities), axis=1)
    uncertainty = 1 - (top[:, -1] - top[:, -2])
    unlabelled = np.flatnonzero(~labelled)
    order = np.argsort(-uncertainty[unlabelled], kind="stable")
    candidates = unlabelled[order[: _PREFILTER * count]]
    weights = np.maximum(uncertainty[candidates], 1e-6)
    clusters = _cluster(x[candidates], count, seed, weights)
    heard = Counter(np.asarray(speakers)[labelled].tolist())
    chosen: list[int] = []
    for cluster in dict.fromkeys(clusters.tolist()):  # in the order of their most uncertain utterance
        members = candidates[clusters == cluster]
        centre = np.average(x[members], axis=0, weights=weights[clusters == cluster])
        nearness = -np.linalg.norm(x[members] - centre, axis=1)
        row = _spread(members.tolist(), nearness, speakers, heard)
        heard[speakers[row]] += 1
        chosen.append(row)
    rest = (row for row in candidates.tolist() if row not in set(chosen))
    return [*chosen, *(row for row, _ in zip(rest, range(count - len(chosen)), strict=False))]


def _spread(
    members: Sequence[int], merit: Float[np.ndarray, " m"], speakers: Sequence[str], heard: Counter[str]
) -> int:
    """Return the best member of the least heard speaker, among the best quarter of a cluster."""
    order = np.argsort(-merit, kind="stable")[: max(1, len(members) // 4)]
    best = [members[int(place)] for place in order]
    return min(best, key=lambda row: heard[speakers[row]])


def _density(
    x: Float[np.ndarray, "n d"], members: Int[np.ndarray, " m"], around: Int[np.ndarray, " a"], seed: int
) -> Float[np.ndarray, " m"]:
    """Return the negative mean distance of each member to its nearest neighbours in the cluster."""
    if len(around) > 1000:
        around = seeded(seed, "neighbours").choice(around, 1000, replace=False)
    squares = (x[members] ** 2).sum(1)[:, None] + (x[around] ** 2).sum(1) - 2 * x[members] @ x[around].T
    distances = np.sqrt(np.maximum(squares, 0))
    nearest = np.sort(distances, axis=1)[:, : _NEIGHBOURS + 1]  # the first is the member itself
    return -nearest.mean(axis=1)


def _cluster(
    x: Float[np.ndarray, "n d"], count: int, seed: int, weights: Float[np.ndarray, " n"] | None = None
) -> Int[np.ndarray, " n"]:
    """Return the cluster of each row, by k-means; one thread, so that sums have one order."""
    start = int(seeded(seed, "clusters").integers(2**31))
    with threadpool_limits(1):
        model = KMeans(min(count, len(np.unique(x, axis=0))), max_iter=50, random_state=start)
        return model.fit_predict(x, sample_weight=weights).astype(int)


def _sample(labels: Int[np.ndarray, " n"], count: int, seed: int) -> Int[np.ndarray, " m"]:
    """Return the rows to cluster, sorted: all labelled ones, and all others or a sample of them."""
    labelled, rest = np.flatnonzero(labels >= 0), np.flatnonzero(labels < 0)
    most = max(LARGEST_SAMPLE - len(labelled), count)
    if len(rest) > most:
        rest = seeded(seed, "sample").choice(rest, most, replace=False)
    return np.sort(np.concatenate([labelled, rest]))


def _standardise(values: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    x = np.where(np.isfinite(values), values, np.nan).astype(np.float32)
    known = np.maximum(np.isfinite(x).sum(axis=0), 1)
    x -= np.nansum(x, axis=0) / known
    scale = np.sqrt(np.nansum(x**2, axis=0) / known)
    return np.nan_to_num(x / np.where(scale > 1e-6, scale, 1.0))
