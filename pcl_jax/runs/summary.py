"""Records -> the numbers of a table: means over folds, intervals over repeats, gains and their tests."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

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
"""Of the paper's test."""

METHODS = {
    "supervised": "supervised",
    "frozen": "Pairwise-CL, frozen",
    "tuned": "Pairwise-CL, tuned",
}
"""The networks: name -> heading."""
PROBES = {
    "probe-raw": "probe, features",
    "probe-random": "probe, random",
    "probe-pretrained": "probe, pre-trained",
}
"""Logistic regressions: on pooled features, on a fresh and on a pre-trained encoder's representation."""


def method_of(row: Row) -> str:
    """Which of `METHODS` or `PROBES` a record is of."""
    if row["method"] == "pairwise-cl":
        return "frozen" if row["frozen"] else "tuned"
    return row["method"]


def labels(row: Row) -> str:
    """How many labels a run had, as tables say it."""
    return f"{row['per_class']} a class" if row.get("per_class") else f"{row['fraction']:.0%}"


def amounts(rows: Iterable[Row]) -> list[str]:
    """The different `labels`, few before many."""
    return sorted({labels(row) for row in rows}, key=lambda text: (text.endswith("class"), _number(text)))


def _number(text: str) -> float:
    return float(text.split()[0].rstrip("%"))


def views(rows: Iterable[Row]) -> list[str]:
    """The different titles, sorted."""
    return sorted({row["title"] for row in rows})


VARIED = ("temperature", "subset", "utterances")
"""Settings of pre-training that experiments vary within one section."""


def sections(rows: Iterable[Row]) -> list[list[Row]]:
    """Group rows that can stand in one table: same data, seed and settings.

    A record holds only the settings that its run uses, so that a row belongs to every section whose settings
    agree with its own: a probe of raw features stands beside all networks with its normalisation, a
    supervised network beside all pre-trainings. Only the `VARIED` settings may differ within a section.
    """
    data: dict[tuple, list[Row]] = {}
    for row in rows:
        data.setdefault((row["corpus"], row["protocol"], row["seed"]), []).append(row)
    found = []
    for _, group in sorted(data.items()):
        settings = [_section_settings(row) for row in group]
        whole = [s for s in settings if not any(_agrees(s, other) and s != other for other in settings)]
        for wanted in {json.dumps(s, sort_keys=True): s for s in whole}.values():
            found.append([row for row, s in zip(group, settings, strict=True) if _agrees(s, wanted)])
    return found


def _section_settings(row: Row) -> dict[str, Any]:
    settings = dict(row.get("settings", {}))
    if pretraining := settings.get("pretraining"):
        settings["pretraining"] = {k: v for k, v in pretraining.items() if k not in VARIED}
    return settings


def _agrees(part: Mapping[str, Any], whole: Mapping[str, Any]) -> bool:
    """Whether all settings that a row has are those of a section."""
    return all(name in whole and whole[name] == value for name, value in part.items())


def per_repeat(rows: Iterable[Row], folds: set[int], score: str = "uar") -> dict[int, float]:
    """A score in % of each repeat that all these folds have: the mean over them."""
    by_repeat: dict[int, dict[int, float]] = {}
    for row in rows:
        by_repeat.setdefault(row["repeat"], {})[row["fold"]] = row[score]
    return {
        repeat: 100 * float(np.mean(list(of.values())))
        for repeat, of in sorted(by_repeat.items())
        if set(of) == folds
    }


def pairs(
    rows: Sequence[Row], one: str, other: str, column: Callable[[Row], Any] = method_of
) -> dict[tuple[str, str], tuple[dict[int, float], dict[int, float]]]:
    """(view, labels) -> UAR by repeat where the column is `one`, and where it is `other`."""
    folds = {row["fold"] for row in rows}
    cells: dict[tuple, list[Row]] = {}
    for row in rows:
        cells.setdefault((row["title"], labels(row), column(row)), []).append(row)
    return {
        (view, amount): (
            per_repeat(cells.get((view, amount, one), ()), folds),
            per_repeat(cells.get((view, amount, other), ()), folds),
        )
        for view in views(rows)
        for amount in amounts(rows)
    }


def mean_text(values: Mapping[int, float] | Sequence[float]) -> str:
    """Mean and half-width of the 95 % t-interval.

    >>> mean_text([1.0, 2.0, 3.0]), mean_text([1.0]), mean_text([])
    ('2.0 ± 2.5', '1.0', 'not run')
    """
    x = list(values.values()) if isinstance(values, Mapping) else list(values)
    if not x:
        return NOT_RUN
    mean, half = t_interval(x)
    return f"{mean:.1f}" + (f" ± {half:.1f}" if np.isfinite(half) else "")


class Gain(NamedTuple):
    """One way over another: differences of repeats that have the same labelled utterances."""

    repeats: int
    mean: float
    half_width: float
    """Of the 95 % t-interval."""
    low: float
    """Bootstrap interval of the mean."""
    high: float
    mann_whitney: float
    """The paper's test, which takes the repeats for unpaired; not corrected."""
    wilcoxon: float
    """Of pairs; after Holm within the family it was made with, see `gains`."""
    delta: float

    @property
    def mark(self) -> str:
        """`*` where the paper's test is below 0.05, as in its Figure 3."""
        return "*" if self.mann_whitney < ALPHA else "ns"


def gains(pairs: Mapping[Any, tuple[Mapping[int, float], Mapping[int, float]]]) -> dict[Any, Gain]:
    """First over second for each key, of the repeats both have; Wilcoxon corrected over all keys.

    Keys with fewer than two such repeats have none.
    """
    found = {}
    for key, (one, other) in pairs.items():
        shared = sorted(set(one) & set(other))
        if len(shared) < 2:
            continue
        x, y = (np.array([of[repeat] for repeat in shared]) for of in (one, other))
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


def gain_texts(gain: Gain | None) -> tuple[str, ...]:
    """Difference with its t-interval, then the cells of `GAIN_HEAD`."""
    if gain is None:
        return (NOT_RUN,) * (1 + len(GAIN_HEAD))
    return (
        f"{gain.mean:+.1f} ± {gain.half_width:.1f}",
        f"{gain.low:+.1f} to {gain.high:+.1f}",
        f"{gain.mann_whitney:.3f} {gain.mark}",
        f"{gain.wilcoxon:.3f}",
        f"{gain.delta:+.2f}",
    )
