"""Table 2: all labels, encoders frozen against tuned, at the chosen temperature.

    python -m experiments.freezing --corpus emodb --root DIR

Paper (IEMOCAP, tau = 0.5): tuning beats freezing by 8 points UAR for wav2vec 2.0 and by 3 for
mel and eGeMAPS.
Of the same runs as `experiments.temperature`; only what is missing is run. `--pretraining.temperature`
chooses another.

Prints one Markdown table: UAR and WA in % of the test session, mean over repeats (one by default, each the
mean over the folds) with the half-width of the 95 % t-interval where there are several.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tyro

from pcl_jax import cli
from pcl_jax.commands import flags
from pcl_jax.runs.summary import METHODS, mean_text, method_of, per_repeat, views
from pcl_jax.runs.tables import Table

if TYPE_CHECKING:
    from pcl_jax.runs.plan import Step
    from pcl_jax.runs.records import Row
    from pcl_jax.runs.study import Study


@dataclass(frozen=True)
class Freezing(flags.Experiment):
    """All labels: is the encoder better frozen or tuned?"""

    repeats: int = 1
    """Initialisations per fold."""


def main(command: Freezing) -> None:
    from pcl_jax.commands import terminal

    rows = cli.experiment(command, "freezing", lambda study: plan(study, command))
    terminal.out.print(table(rows).markdown(), markup=False, highlight=False)


def plan(study: "Study", command: Freezing) -> "Iterator[Step]":
    """All runs of Table 2, and the supervised ones beside them."""
    from pcl_jax.runs.plan import label_efficiency

    return label_efficiency(study, command.folds, {1.0: command.repeats}, probes=False)


def table(rows: "Sequence[Row]") -> Table:
    """One line per view."""
    folds = {row["fold"] for row in rows}
    lines = []
    for view in views(rows):
        of_view = [row for row in rows if row["title"] == view]
        of = {name: [row for row in of_view if method_of(row) == name] for name in METHODS}
        cells = [mean_text(per_repeat(some, folds, score)) for some in of.values() for score in ("uar", "wa")]
        lines.append((view, *cells))
    heads = [f"{way}, {score}" for way in METHODS.values() for score in ("UAR", "WA")]
    return Table("All labels, encoders frozen and tuned", ("view", *heads), lines, "In %, test sessions.")


if __name__ == "__main__":
    command = tyro.cli(Freezing, default=flags.default(Freezing, sys.argv[1:]), description=__doc__)
    cli.guarded(lambda: main(command), debug=command.debug)
