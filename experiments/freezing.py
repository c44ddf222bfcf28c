"""Table 2: all labels, encoders frozen against tuned, at the chosen temperature.

    python -m experiments.freezing --corpus emodb --root DIR

Paper (IEMOCAP, tau = 0.5): tuning beats freezing by 8 points UAR for wav2vec 2.0 and by 3 for mel and
eGeMAPS. The runs are among those of `experiments.temperature`; only those that are missing are done.
`--pretraining.temperature` chooses another temperature.

The command prints one Markdown table: UAR and WA in % of the test session, mean over repeats (one by default,
each the mean over the folds) with the half-width of the 95 % t-interval where there are several.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.experiment import Choice, Exhibit, Experiment, main
from pcl_jax.commands import flags
from pcl_jax.runs.summary import (
    ALL_LABELS,
    METHODS,
    NO_SCORES,
    amount,
    group_rows,
    method_of,
    score_texts,
    scores_of,
    views,
)
from pcl_jax.runs.tables import Table

if TYPE_CHECKING:
    from pcl_jax.runs.records import Row
    from pcl_jax.runs.runner import Runner
    from pcl_jax.runs.spec import Spec


@dataclass(frozen=True)
class Freezing(flags.Experiment):
    """All labels: is the encoder better frozen or tuned?"""

    repeats: int = 1
    """Initialisations per fold."""


def plan(runner: "Runner", command: Any) -> "Iterator[Spec]":
    """Yield all runs of Table 2, and the supervised ones."""
    from pcl_jax.runs.plan import label_efficiency

    pretrainings = map(runner.pretraining, command.folds)
    return label_efficiency(pretrainings, runner.settings, {1.0: command.repeats}, probes=False)


def select(rows: "Sequence[Row]", choice: Choice) -> "list[Row]":
    """Return the networks trained on all labels, of the chosen pre-training or of none."""
    return [
        row for row in rows if method_of(row) in METHODS and amount(row) == ALL_LABELS and choice.holds(row)
    ]


def table(rows: "Sequence[Row]") -> Table:
    """Return a line per view."""
    cells = group_rows(rows, lambda row: (row["title"], method_of(row)))
    columns = [(method, score) for method in METHODS for score in ("uar", "wa")]
    scores = {
        (view, method, score): scores_of(cells[view, method], score) if (view, method) in cells else NO_SCORES
        for view in views(rows)
        for method, score in columns
    }
    texts = score_texts(scores)
    lines = [(view, *(texts[view, *column] for column in columns)) for view in views(rows)]
    heads = [f"{METHODS[method]}, {score.upper()}" for method, score in columns]
    return Table("All labels, encoders frozen and tuned", ("view", *heads), lines, "In %, test sessions.")


EXPERIMENT = Experiment(
    name="freezing",
    description=__doc__,
    flags=Freezing,
    plan=plan,
    exhibits=(Exhibit("Table 2", select, table),),
)

if __name__ == "__main__":
    main(EXPERIMENT)
