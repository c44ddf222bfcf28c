"""Sections of the report: which records can stand in one table, and which exclude each other."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pcl_jax.config import digest
from pcl_jax.runs.summary import amount, group_rows

if TYPE_CHECKING:
    from pcl_jax.runs.records import Row

COMPARED = ("pretraining.temperature", "pretraining.subset", "pretraining.utterances")
"""Settings that the paper's tables compare: runs that differ in them share a section, and no cell."""

NEEDED = (
    "run", "corpus", "recordings", "label_digest", "seed", "fold", "view", "title", "views", "method",
    "frozen", "fraction", "repeat", "temperature", "pretrained_on", "uar", "settings", "features", "versions",
    "protocol", "config_digest", "classes", "counts", "utterances", "synthetic",
)  # fmt: skip
"""Fields without which a row is no record of this version."""

Facts = Mapping[str, Any]
"""Everything that runs must share to stand in one table: name -> value."""


class Section(NamedTuple):
    """Rows that can stand in one table."""

    facts: Facts
    rows: "list[Row]"
    conflicts: list[str]
    """A line for each cell that two different runs claim; their rows are left out."""


def is_record(row: "Row") -> bool:
    """Return whether a row is a record of this version."""
    return all(name in row for name in NEEDED)


def sections(rows: "Sequence[Row]") -> list[Section]:
    """Group rows into sections, and leave out those that claim the same cell.

    A run uses some of the settings and some of the features. It stands in every section that agrees with
    those: a probe of plain features stands beside all networks with its normalisation, a supervised network
    beside all pre-trainings.
    """
    starts = {row["config_digest"]: row for row in rows if row["method"] == "pretraining"}
    found: list[Section] = []
    for _, group in sorted(group_rows(rows, _data_of).items()):
        facts = [facts_of(row, starts.get(row.get("start"))) for row in group]
        for shared in _merge(facts):
            members = [row for row, part in zip(group, facts, strict=True) if agree(part, shared)]
            found.append(Section(shared, *without_conflicts(members)))
    return found


def _data_of(row: "Row") -> tuple[Any, ...]:
    return row["corpus"], row["recordings"], row["label_digest"], row["protocol"], row["seed"]


def facts_of(row: "Row", start: "Row | None" = None) -> dict[str, Any]:
    """Return what rows must share with a row to stand in one table with it.

    Args:
        row: a record.
        start: record of the pre-training that it starts from.
    """
    features = (start["features"] if start else {}) | row["features"]
    return {
        "corpus": row["corpus"],
        "classes": ", ".join(row["classes"]),
        "data and version": digest(*_data_of(row)[1:4]),
        "seed": row["seed"],
        **{name: value for name, value in flatten(row["settings"]).items() if name not in COMPARED},
        **{f"features of {view}": found for view, found in features.items()},
    }


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by their dotted names.

    >>> flatten({"normalise": "fold", "finetuning": {"epochs": 5}})
    {'normalise': 'fold', 'finetuning.epochs': 5}
    """
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found


def agree(first: Facts, second: Facts, apart_from: Iterable[str] = ()) -> bool:
    """Return whether two sets of facts contradict each other nowhere, apart from these names."""
    return all(first[name] == second[name] for name in first.keys() & second.keys() - set(apart_from))


def _merge(facts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge facts that agree, those that say most first."""
    different = {json.dumps(part, sort_keys=True): part for part in facts}.values()
    merged: list[dict[str, Any]] = []
    for part in sorted(different, key=len, reverse=True):
        home = next((shared for shared in merged if agree(part, shared)), None)
        if home is None:
            merged.append(dict(part))
        else:
            home.update(part)
    return merged


def differences(section: Section, every: Iterable[Section]) -> str:
    """Return the facts that tell a section from the others of its corpus: "finetuning.epochs = 5"."""
    facts = [found.facts for found in every if found.facts["corpus"] == section.facts["corpus"]]
    return ", ".join(
        f"{name} = {value}"
        for name, value in section.facts.items()
        if any(name in compared and compared[name] != value for compared in facts)
    )


def cell(row: "Row") -> tuple[Any, ...]:
    """Return the cell, fold and repeat that a row fills: no two rows of a section have the same."""
    return (
        row["method"], row["frozen"], row["title"], tuple(row["views"]), amount(row), row["fold"],
        row["repeat"], row["temperature"], row["pretrained_on"],
    )  # fmt: skip


def without_conflicts(rows: "Sequence[Row]") -> "tuple[list[Row], list[str]]":
    """Return the rows that fill their cell alone, and a line for each cell that several runs claim."""
    kept, lines = [], []
    for claimants in group_rows(rows, cell).values():
        if len({row["config_digest"] for row in claimants}) == 1:
            kept.append(claimants[-1])
            continue
        runs = " and ".join(sorted(row["run"] for row in claimants))
        lines.append(f"different runs claim one cell, and none of them is shown: {runs}")
    return kept, lines
