"""Figure 3: UAR over the share of labels, supervised against Pairwise-CL.

    python -m experiments.sparse_labels --corpus emodb --root DIR --repeats 5

Paper (IEMOCAP, three views, 10 repeats): gains of up to 10-15 UAR at 2 and 5 % of the labels for mel
and eGeMAPS, smaller for wav2vec 2.0. All folds are pre-trained first where they are not; finished
runs are not repeated, so it can be stopped and started at will. Two views and five repeats took 80 minutes
on RAVDESS (1,440 utterances) on one CPU core that had other work besides.

Prints one Markdown table: per view and share, mean UAR in % over repeats (each repeat is the mean over
the folds) with the half-width of its 95 % t-interval; tuned minus supervised with its t-interval and its
bootstrap interval, the p of the paper's Mann-Whitney U test (* below 0.05), that of Wilcoxon's test of pairs,
Holm-corrected over all cells, and Cliff's delta. Repeats share test folds and are not independent: the
intervals say how much subset and initialisation matter, not how the next corpus would come out.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import tyro

from pcl_jax import cli
from pcl_jax.commands import flags
from pcl_jax.runs.summary import (
    GAIN_HEAD,
    METHODS,
    PROBES,
    amounts,
    gain_texts,
    gains,
    labels,
    mean_text,
    method_of,
    per_repeat,
    views,
)
from pcl_jax.runs.tables import Table

if TYPE_CHECKING:
    from pcl_jax.runs.plan import Step
    from pcl_jax.runs.records import Row
    from pcl_jax.runs.study import Study


@dataclass(frozen=True)
class SparseLabels(flags.Experiment):
    """Label-efficiency curves on all folds."""

    repeats: int = 10
    """Subsets and initialisations per fold and share of the labels."""
    fractions: tuple[float, ...] = (0.02, 0.05, 0.1, 0.25, 1.0)
    """Shares of the labels."""
    per_class: tuple[int, ...] = ()
    """Beside them, so many labels of each class: 1 5 20."""


def main(command: SparseLabels) -> None:
    from pcl_jax.commands import terminal

    rows = cli.experiment(command, "sparse_labels", lambda study: plan(study, command))
    terminal.out.print(table(rows).markdown(), markup=False, highlight=False)


def plan(study: "Study", command: SparseLabels) -> "Iterator[Step]":
    """All runs of the curves."""
    from pcl_jax.runs.plan import label_efficiency

    fractions = dict.fromkeys(command.fractions, command.repeats)
    per_class = dict.fromkeys(command.per_class, command.repeats)
    return label_efficiency(study, command.folds, fractions, per_class=per_class, probes=True)


def table(rows: "Sequence[Row]") -> Table:
    """One line per view and share of labels."""
    columns = METHODS | PROBES
    folds = {row["fold"] for row in rows}
    cells = {}
    for row in rows:
        cells.setdefault((row["title"], labels(row)), []).append(row)
    of = {
        key: {name: per_repeat([row for row in cell if method_of(row) == name], folds) for name in columns}
        for key, cell in cells.items()
    }
    gained = gains({key: (found["tuned"], found["supervised"]) for key, found in of.items()})
    lines = [
        (
            *key,
            f"{np.mean([row['n_labelled'] for row in cells[key]]):.0f}",
            *(mean_text(values) for values in of[key].values()),
            *gain_texts(gained.get(key)),
        )
        for view in views(rows)
        for amount in amounts(rows)
        if (key := (view, amount)) in cells
    ]
    return Table(
        "UAR in % over the share of labels",
        ("view", "labels", "n", *columns.values(), "tuned - supervised", *GAIN_HEAD),
        lines,
        "Mean over repeats, each the mean over the folds, and the half-width of its 95 % t-interval. p (U): "
        "Mann-Whitney, exact, * below 0.05; p (W, Holm): Wilcoxon's test of pairs, corrected over all cells; "
        "δ: Cliff's delta.",
    )


if __name__ == "__main__":
    command = tyro.cli(SparseLabels, default=flags.default(SparseLabels, sys.argv[1:]), description=__doc__)
    cli.guarded(lambda: main(command), debug=command.debug)
