"""Cells of few labels: records -> UAR of each method, and its difference to the simple probe, with intervals.

All is computed from counts per test speaker, so that speakers can be resampled. A speaker is tested in one
fold alone: the folds of a repeat together test every utterance once.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from pcl_jax.evaluation.bootstrap import Estimate, bootstrap_uar
from pcl_jax.evaluation.significance import holm
from pcl_jax.runs.summary import Amount, amount, group_rows, method_of, whole_folds

if TYPE_CHECKING:
    from pcl_jax.runs.records import Row

BASELINE = "probe"
"""Method that the others are compared with: the best single view, chosen within the labels."""
RECIPE = "recipe"
"""Method that is compared with each of the others."""
NETWORKS = {"supervised": "supervised", "tuned": "pairwise-cl"}
"""Networks of the paper's protocol, which read the labels of the whole validation session -> their method."""
MOST_OF_FEW = 0.1
"""Largest share of the labels that counts as few in a mean over shares."""


class Counts(NamedTuple):
    """Utterances of the test speakers."""

    right: Float[np.ndarray, "r s c"]
    """Utterances that are right, in each repeat, of each speaker and class."""
    total: Int[np.ndarray, "s c"]


class Cell(NamedTuple):
    """One method with one amount of labels, or its mean over several."""

    method: str
    amounts: tuple[Amount, ...]
    rows: "list[Row]"
    uar: Estimate
    difference: Estimate
    """To the baseline, over the folds and repeats that both have; NaN where there are none."""
    recipe: Estimate
    """Difference of the recipe to this method, likewise."""
    p: float = float("nan")
    """p-value of the difference, Holm-corrected over all methods and amounts; NaN for probes."""

    @property
    def protocol(self) -> str:
        """Labels that the method read: "budget", those it was given; "paper", a validation session beside."""
        return "paper" if self.method in NETWORKS.values() else "budget"


def cells(rows: "Sequence[Row]") -> list[Cell]:
    """Return a cell for each method and amount of labels, few labels first."""
    named = {key: found for key, found in by_method(rows).items() if counts(found)}
    made = [
        _cell(method, (labels,), [found], *([named.get((name, labels), [])] for name in (BASELINE, RECIPE)))
        for (method, labels), found in named.items()
    ]
    return _corrected(sorted(made, key=lambda cell: cell.amounts))


def means(rows: "Sequence[Row]") -> list[Cell]:
    """Return each method's mean over all shares of the labels that are few, where it has several."""
    named = by_method(rows)
    few = sorted({labels for _, labels in named if not labels.per_class and labels.fraction <= MOST_OF_FEW})
    if len(few) < 2:
        return []
    made = []
    for method in dict.fromkeys(method for method, _ in named):
        found, base, recipe = (
            [named.get((name, labels), []) for labels in few] for name in (method, BASELINE, RECIPE)
        )
        if mean_counts(found):
            made.append(_cell(method, tuple(few), found, base, recipe))
    return _corrected(made)


def by_method(rows: "Sequence[Row]") -> "dict[tuple[str, Amount], list[Row]]":
    """Group rows by method and labels; of the paper's networks keep the view that validates best in each run.

    The probe of a single view is named "probe:VIEW"; where there is one view alone, also "probe".
    """
    budget = [row for row in rows if row.get("choice") is not None]
    every = largest_views(budget)
    found: dict[tuple[str, Amount], list[Row]] = {}
    for row in budget:
        single = row["method"] == BASELINE and "+" not in row["view"]
        names = [f"{BASELINE}:{row['view']}"] if single else []
        if not single or row["view"] == every:
            names.insert(0, row["method"])
        for name in names:
            found.setdefault((name, amount(row)), []).append(row)
    networks = [row for row in rows if row.get("by_speaker") and method_of(row) in NETWORKS]
    runs = group_rows(networks, lambda row: (method_of(row), amount(row), row["fold"], row["repeat"]))
    for (name, labels, *_), candidates in runs.items():
        best = max(candidates, key=lambda row: row["validation_uar"])
        found.setdefault((NETWORKS[name], labels), []).append(best)
    return found


def largest_views(rows: "Iterable[Row]") -> str:
    """Return the largest set of views that methods of few labels were given, joined by "+"."""
    return max((row["view"] for row in rows), key=lambda names: len(names.split("+")), default="")


def counts(rows: "Sequence[Row]", pairs: "Iterable[tuple[int, int]] | None" = None) -> Counts | None:
    """Return what is right of each repeat and speaker; None where no repeat is whole.

    Args:
        rows: runs of one method with one amount of labels.
        pairs: the (repeat, fold) to count; None: all repeats that have every fold in use.
    """
    runs = {(row["repeat"], row["fold"]): row["by_speaker"] for row in rows}
    chosen = whole(rows) if pairs is None else sorted(pairs)
    if not chosen:
        return None
    repeats = sorted({repeat for repeat, _ in chosen})
    folds = sorted({fold for _, fold in chosen})
    right = [[hits for fold in folds for hits, _ in runs[repeat, fold].values()] for repeat in repeats]
    total = [every for fold in folds for _, every in runs[repeats[0], fold].values()]
    return Counts(np.array(right, float), np.array(total, int))


def whole(*cells: "Sequence[Row]") -> list[tuple[int, int]]:
    """Return the (repeat, fold) of the repeats that have all folds in use in each of these cells."""
    folds = whole_folds(*cells)
    shared = set.intersection(*({(row["repeat"], row["fold"]) for row in cell} for cell in cells))
    return sorted(
        (repeat, fold)
        for repeat in {repeat for repeat, _ in shared}
        if all((repeat, fold) in shared for fold in folds)
        for fold in folds
    )


def mean_counts(
    amounts: "Sequence[Sequence[Row]]", pairs: "Sequence[tuple[int, int]] | None" = None
) -> Counts | None:
    """Return the counts of the mean over amounts of labels; None unless all have some repeats in common."""
    pairs = whole(*amounts) if pairs is None else pairs
    found = [counts(rows, pairs) for rows in amounts] if pairs else []
    if not found:
        return None
    some = [part for part in found if part is not None]
    return Counts(np.mean([part.right for part in some], axis=0), some[0].total)


def _cell(
    method: str,
    amounts: tuple[Amount, ...],
    found: "Sequence[Sequence[Row]]",
    base: "Sequence[Sequence[Row]]",
    recipe: "Sequence[Sequence[Row]]",
) -> Cell:
    alone = mean_counts(found)
    assert alone is not None
    rows = [row for part in found for row in part]
    return Cell(
        method, amounts, rows, bootstrap_uar(*alone), _difference(found, base), _difference(recipe, found)
    )


def _difference(one: "Sequence[Sequence[Row]]", other: "Sequence[Sequence[Row]]") -> Estimate:
    pairs = whole(*one, *other)
    first, second = (mean_counts(part, pairs) if pairs else None for part in (one, other))
    if first and second:
        return bootstrap_uar(first.right - second.right, first.total)
    return Estimate(*[float("nan")] * 5)


def _corrected(found: list[Cell]) -> list[Cell]:
    """Correct the p-values after Holm; the baseline and the probes that it chooses among are no tests."""
    p = [float("nan") if cell.method.startswith(BASELINE) else cell.difference.p for cell in found]
    return [cell._replace(p=float(value)) for cell, value in zip(found, holm(p), strict=True)]


def mean_of(rows: "Sequence[Row]", value: str) -> float:
    """Return the mean of a measurement over runs; NaN for runs that lack it."""
    found = [(row.get("values") or {}).get(value) for row in rows]
    known = [float(number) for number in found if number is not None]
    return float(np.mean(known)) if known and len(known) == len(found) else float("nan")


def normalisation(rows: "Sequence[Row]") -> str:
    """Return what normalised the features of these runs, in words.

    >>> normalisation([{"normalise": "fold"}, {"normalise": "speaker"}])
    'speaker (transductive) in 50% of runs, else fold'
    """
    kinds: Mapping[str, list[Row]] = group_rows(rows, lambda row: row["normalise"])
    if "speaker" not in kinds:
        return ", ".join(sorted(kinds))
    text = "speaker (transductive)"
    if others := ", ".join(sorted(kinds.keys() - {"speaker"})):
        text += f" in {len(kinds['speaker']) / len(rows):.0%} of runs, else {others}"
    return text
