"""Records -> the numbers of a table: means over folds, intervals over repeats, gains and their tests.

Cells are keyed by values, never by the texts that a table shows.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float

from pcl_jax.evaluation.significance import (
    bootstrap_interval,
    cliffs_delta,
    holm,
    mann_whitney,
    t_interval,
    wilcoxon,
)
from pcl_jax.runs.records import Row
from pcl_jax.runs.tables import NOT_RUN

ALPHA = 0.05
"""Level of the paper's test."""

CONDITIONAL = (
    "The p-values are conditional on one pre-training per fold: they say how sure a difference is over "
    "labelled subsets and random starts, not over pre-trainings; other seeds (--seed) make others."
)
"""Remark that stands beside every p-value of pre-trained encoders."""

METHODS = {
    "supervised": "supervised",
    "frozen": "Pairwise-CL, frozen",
    "tuned": "Pairwise-CL, tuned",
}
"""Networks: name -> heading."""
PROBES = {
    "probe-raw": "probe, features",
    "probe-random": "probe, random",
    "probe-pretrained": "probe, pre-trained",
}
"""Logistic regressions on pooled features, on a fresh and on a pre-trained encoder's representation."""

Key = TypeVar("Key", bound=Hashable)


def method_of(row: Row) -> str:
    """Return the one of `METHODS` or `PROBES` that a record belongs to."""
    if row["method"] == "pairwise-cl":
        return "frozen" if row["frozen"] else "tuned"
    return row["method"]


class Amount(NamedTuple):
    """Number of labels that a run had; few sort before many, shares before numbers of each class.

    >>> str(Amount(0, 0.02)), str(Amount(0, 0.024)), str(Amount(5, 1.0))
    ('2%', '2.4%', '5 a class')
    """

    per_class: int
    """Labelled utterances of each class; 0 where a share was asked for."""
    fraction: float
    """Share of the labelled training utterances of each class."""

    def __str__(self) -> str:
        """Return the amount as tables show it."""
        return f"{self.per_class} a class" if self.per_class else f"{100 * self.fraction:g}%"


ALL_LABELS = Amount(0, 1.0)
"""Every labelled training utterance."""


def amount(row: Row) -> Amount:
    """Return how many labels a run had."""
    return Amount(row["per_class"], 1.0) if row.get("per_class") else Amount(0, row["fraction"])


def labels(row: Row) -> str:
    """Return how many labels a run had, as tables show it."""
    return str(amount(row))


def amounts(rows: Iterable[Row]) -> list[Amount]:
    """Return the different amounts of labels, few before many."""
    return sorted({amount(row) for row in rows})


def views(rows: Iterable[Row]) -> list[str]:
    """Return the different titles of views, sorted."""
    return sorted({row["title"] for row in rows})


def group_rows(rows: Iterable[Row], key: Callable[[Row], Key]) -> dict[Key, list[Row]]:
    """Group rows by a key, in the order of the first row of each."""
    found: dict[Key, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


class Scores(NamedTuple):
    """Scores of one cell: of each repeat the mean over the folds, in %."""

    by_repeat: dict[int, float]
    folds: frozenset[int] = frozenset()
    """Folds that every one of these repeats has."""


NO_SCORES = Scores({})
"""Scores of a cell that was not run."""


def per_repeat(rows: Iterable[Row], folds: Iterable[int], score: str = "uar") -> dict[int, float]:
    """Return a score in % of each repeat that has all these folds: the mean over them.

    Raises:
        ValueError: two rows are of the same fold and repeat, so that they are no one cell.
    """
    wanted = set(folds)
    by_repeat: dict[int, dict[int, float]] = {}
    for row in rows:
        if row["fold"] in wanted:
            by_fold = by_repeat.setdefault(row["repeat"], {})
            if row["fold"] in by_fold:
                raise ValueError(
                    f"two runs of fold {row['fold']}, repeat {row['repeat']} in one cell; "
                    f"one is {row.get('run')}"
                )
            by_fold[row["fold"]] = row[score]
    return {
        repeat: 100 * float(np.mean([by_fold[fold] for fold in sorted(wanted)]))
        for repeat, by_fold in sorted(by_repeat.items())
        if set(by_fold) == wanted
    }


def whole_folds(*cells: Iterable[Row]) -> frozenset[int]:
    """Return the folds over which to average cells that are compared.

    Runs may be missing while an experiment goes on. Of all sets of folds, this is the one with the most
    (fold, repeat) pairs whose repeats are whole in every cell; of several such sets, the largest.
    """
    runs = [{(row["repeat"], row["fold"]) for row in cell} for cell in cells]
    shared = set.intersection(*runs) if runs else set()
    by_repeat: dict[int, set[int]] = {}
    for repeat, fold in shared:
        by_repeat.setdefault(repeat, set()).add(fold)
    folds = sorted({fold for _, fold in shared})
    candidates = [frozenset(c) for n in range(len(folds), 0, -1) for c in combinations(folds, n)]

    def pairs_in(candidate: frozenset[int]) -> int:
        return len(candidate) * sum(candidate <= found for found in by_repeat.values())

    return max(candidates, key=pairs_in, default=frozenset())


def scores_of(rows: Sequence[Row], score: str = "uar") -> Scores:
    """Return the scores of one cell, over the folds that are whole."""
    folds = whole_folds(rows)
    return Scores(per_repeat(rows, folds, score), folds) if folds else NO_SCORES


def score_texts(cells: Mapping[Key, Scores]) -> dict[Key, str]:
    """Return the mean and interval of each cell of a table, with its number of folds where some are missing.

    >>> score_texts({"a": Scores({0: 50.0}, frozenset({1, 2})), "b": Scores({0: 40.0}, frozenset({1}))})
    {'a': '50.0', 'b': '40.0 (1 of 2 folds)'}
    """
    every = frozenset().union(*(scores.folds for scores in cells.values()))
    return {key: mean_text(scores.by_repeat) + folds_text(scores, every) for key, scores in cells.items()}


def folds_text(scores: Scores, folds: frozenset[int]) -> str:
    """Return what to add to a mean over fewer folds than the rest of a table has."""
    if not scores.folds or scores.folds == folds:
        return ""
    return f" ({len(scores.folds)} of {len(folds)} folds)"


def pairs(
    rows: Sequence[Row], first: Any, second: Any, column: Callable[[Row], Any] = method_of
) -> dict[tuple[str, Amount], tuple[dict[int, float], dict[int, float]]]:
    """Return UAR by repeat where the column is `first`, and where it is `second`, for each (view, labels).

    Both are means over the same folds: those that are whole in both.
    """
    cells = group_rows(rows, lambda row: (row["title"], amount(row), column(row)))
    found = {}
    for view in views(rows):
        for labelled in amounts(rows):
            one_cell = cells.get((view, labelled, first), [])
            another = cells.get((view, labelled, second), [])
            folds = whole_folds(one_cell, another)
            found[view, labelled] = per_repeat(one_cell, folds), per_repeat(another, folds)
    return found


def mean_text(values: Mapping[int, float] | Sequence[float]) -> str:
    """Return the mean and the half-width of the 95 % t-interval.

    >>> mean_text([1.0, 2.0, 3.0]), mean_text([1.0]), mean_text([])
    ('2.0 ± 2.5', '1.0', 'not run')
    """
    x = list(values.values()) if isinstance(values, Mapping) else list(values)
    if not x:
        return NOT_RUN
    mean, half = t_interval(x)
    return f"{mean:.1f}" + (f" ± {half:.1f}" if np.isfinite(half) else "")


class Gain(NamedTuple):
    """Gain of one method over another: differences of repeats that have the same labelled utterances."""

    repeats: int
    mean: float
    half_width: float
    """Half-width of the 95 % t-interval."""
    low: float
    """Lower end of the bootstrap interval of the mean."""
    high: float
    """Upper end."""
    mann_whitney: float
    """p of the paper's test, which takes the repeats for unpaired; not corrected."""
    wilcoxon: float
    """p of the test of pairs, after Holm's correction within the family that it was made with (`gains`)."""
    delta: float
    """Cliff's delta."""

    @property
    def mark(self) -> str:
        """`*` where the paper's test is below 0.05, as in its Figure 3."""
        return "*" if self.mann_whitney < ALPHA else "ns"

    @property
    def significant(self) -> bool:
        """Whether the corrected test of pairs is below 0.05."""
        return self.wilcoxon < ALPHA


def gains(pairs: Mapping[Key, tuple[Mapping[Any, float], Mapping[Any, float]]]) -> dict[Key, Gain]:
    """Return the gain of first over second for each key, over the repeats that both have.

    Wilcoxon's p is corrected over all keys. Keys with fewer than two such repeats have no gain.
    """
    found = {}
    for key, (first, second) in pairs.items():
        shared = sorted(set(first) & set(second))
        if len(shared) < 2:
            continue
        x, y = (np.array([values[repeat] for repeat in shared]) for values in (first, second))
        mean, half = t_interval(x - y)
        low, high = bootstrap_interval(x - y)
        found[key] = Gain(
            len(shared), mean, half, low, high, mann_whitney(x, y), wilcoxon(x, y), cliffs_delta(x, y)
        )
    corrected: Float[np.ndarray, " n"] = holm([gain.wilcoxon for gain in found.values()])
    return {
        key: gain._replace(wilcoxon=float(p)) for (key, gain), p in zip(found.items(), corrected, strict=True)
    }


GAIN_HEAD = ("bootstrap", "p (U)", "p (W, Holm)", "δ")
"""Headings of a gain's statistics."""


def gain_texts(gain: Gain | None) -> tuple[str, ...]:
    """Return the difference with its t-interval, then the cells of `GAIN_HEAD`."""
    if gain is None:
        return (NOT_RUN,) * (1 + len(GAIN_HEAD))
    return (
        f"{gain.mean:+.1f} ± {gain.half_width:.1f}",
        f"{gain.low:+.1f} to {gain.high:+.1f}",
        f"{gain.mann_whitney:.3f} {gain.mark}",
        f"{gain.wilcoxon:.3f}",
        f"{gain.delta:+.2f}",
    )
