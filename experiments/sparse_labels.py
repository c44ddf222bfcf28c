"""Figure 3: UAR over the share of labels, supervised against Pairwise-CL.

    python -m experiments.sparse_labels --corpus emodb --root DIR --repeats 5

Paper (IEMOCAP, three views, 10 repeats): gains of up to 10-15 UAR at 2 and 5 % of the labels for mel and
eGeMAPS, smaller for wav2vec 2.0. All folds are pre-trained first where they are not. Finished runs are not
repeated: stop it and run it again to resume.

The command prints one Markdown table: per view and share, mean UAR in % over repeats (each repeat is the mean
over the folds) with the half-width of its 95 % t-interval; tuned minus supervised with its t-interval and its
bootstrap interval, the p of the paper's Mann-Whitney U test (* below 0.05), that of Wilcoxon's test of pairs,
Holm-corrected over all cells, and Cliff's delta. Repeats share test folds and are not independent: the
intervals say how much subset and initialisation matter, not how the next corpus would come out. All p-values
are conditional on one pre-training per fold; `--seed` makes others.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from experiments.experiment import Choice, Exhibit, Experiment, main
from experiments.figures import curves, heat_maps
from pcl_jax.commands import flags
from pcl_jax.runs.summary import (
    CONDITIONAL,
    GAIN_HEAD,
    METHODS,
    NO_SCORES,
    PROBES,
    amount,
    amounts,
    gain_texts,
    gains,
    group_rows,
    method_of,
    pairs,
    score_texts,
    scores_of,
    views,
)
from pcl_jax.runs.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pcl_jax.runs.records import Row
    from pcl_jax.runs.runner import Runner
    from pcl_jax.runs.spec import Spec


@dataclass(frozen=True)
class SparseLabels(flags.Experiment):
    """Label-efficiency curves on all folds."""

    repeats: int = 10
    """Subsets and initialisations per fold and share of the labels."""
    fractions: tuple[float, ...] = (0.02, 0.05, 0.1, 0.25, 1.0)
    """Shares of the labels."""
    per_class: tuple[int, ...] = ()
    """Numbers of labels of each class, in addition to the shares: 1 5 20."""


def plan(runner: "Runner", command: SparseLabels) -> "Iterator[Spec]":
    """Yield all runs of the curves."""
    from pcl_jax.runs.plan import label_efficiency

    fractions = dict.fromkeys(command.fractions, command.repeats)
    per_class = dict.fromkeys(command.per_class, command.repeats)
    pretrainings = map(runner.pretraining, command.folds)
    return label_efficiency(pretrainings, runner.settings, fractions, per_class=per_class, probes=True)


def select(rows: "Sequence[Row]", choice: Choice) -> "list[Row]":
    """Return all runs that score, of the chosen pre-training or of none."""
    return [row for row in rows if row["uar"] is not None and choice.holds(row)]


def table(rows: "Sequence[Row]") -> Table:
    """Return a line per view and amount of labels."""
    columns = METHODS | PROBES
    cells = group_rows(rows, lambda row: (row["title"], amount(row)))
    scores = {}
    for key, cell in cells.items():
        by_method = group_rows(cell, method_of)
        for name in columns:
            scores[key, name] = scores_of(by_method[name]) if name in by_method else NO_SCORES
    texts = score_texts(scores)
    gained = gains(pairs(rows, "tuned", "supervised"))
    lines = [
        (
            view,
            str(labelled),
            f"{np.mean([row['n_labelled'] for row in cells[key]]):.0f}",
            *(texts[key, name] for name in columns),
            *gain_texts(gained.get(key)),
        )
        for view in views(rows)
        for labelled in amounts(rows)
        if (key := (view, labelled)) in cells
    ]
    return Table(
        "UAR in % over the share of labels",
        ("view", "labels", "n", *columns.values(), "tuned - supervised", *GAIN_HEAD),
        lines,
        "Mean over repeats, each the mean over the folds, and the half-width of its 95 % t-interval. p (U): "
        "Mann-Whitney, exact, * below 0.05; p (W, Holm): Wilcoxon's test of pairs, corrected over all cells; "
        f"δ: Cliff's delta. {CONDITIONAL}",
    )


def folds_in_use(rows: "Sequence[Row]") -> set[int]:
    """Return the folds that some mean of the table is over."""
    cells = group_rows(rows, lambda row: (row["title"], amount(row), method_of(row)))
    return set().union(*(scores_of(found).folds for found in cells.values()))


def select_confused(rows: "Sequence[Row]", choice: Choice) -> "list[Row]":
    """Return the runs of the chosen pre-training's tuned encoders, of each view those with most labels."""
    tuned = [row for row in select(rows, choice) if method_of(row) == "tuned"]
    most = {view: max(map(amount, cell)) for view, cell in group_rows(tuned, lambda r: r["title"]).items()}
    return [row for row in tuned if amount(row) == most[row["title"]]]


def confusion_shares(rows: "Sequence[Row]") -> dict[str, np.ndarray]:
    """Return the confusion matrix of each view, in % of each emotion's utterances, all runs together."""
    found = {}
    for view, cell in sorted(group_rows(rows, lambda row: row["title"]).items()):
        counts = np.sum([row["confusion"] for row in cell], axis=0)
        found[view] = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return found


def confusion_figure(rows: "Sequence[Row]") -> "Figure":
    """Draw the confusion matrix of each view."""
    return heat_maps(confusion_shares(rows), rows[0]["classes"])


def confusion_table(rows: "Sequence[Row]") -> Table:
    """Return a line per view and emotion, a column per prediction."""
    classes = rows[0]["classes"] if rows else ()
    lines = [
        (view, name, *(f"{share:.0f}" for share in shares))
        for view, matrix in confusion_shares(rows).items()
        for name, shares in zip(classes, matrix, strict=True)
    ]
    most = ", ".join(map(str, amounts(rows)))
    return Table(
        "Confusions of the tuned encoders",
        ("view", "emotion", *classes),
        lines,
        f"Tuned on {most} of the labels; % of the utterances of each line's emotion, all folds together.",
    )


EXPERIMENT = Experiment(
    name="sparse_labels",
    description=__doc__,
    flags=SparseLabels,
    plan=plan,
    exhibits=(
        Exhibit("Figure 3", select, table, figure=curves),
        Exhibit(
            "Beyond the paper",
            select_confused,
            confusion_table,
            figure=confusion_figure,
            optional=True,
            printed=False,
        ),
    ),
)

if __name__ == "__main__":
    main(EXPERIMENT)
