"""Beyond the paper: every combination of the views, and what each view gains from the others.

    python -m experiments.views_ablation --corpus emodb --root DIR --speech-model DIR

The paper pre-trains all three views at once and calls its framework fit for "any combination and number of
views". Here every set of at least two views is pre-trained (a single view has no other to agree with), and
each of its views tuned on few labels. The runs on all views are those of `experiments.sparse_labels`.

Prints one Markdown table: for each view and share of labels UAR in %, mean over repeats (each the mean over
the folds) and the half-width of its 95 % t-interval, supervised and after pre-training with each set of
partners; a column that does not hold the line's view is empty.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import tyro

from pcl_jax import cli
from pcl_jax.commands import flags
from pcl_jax.runs.summary import amounts, labels, mean_text, per_repeat, views
from pcl_jax.runs.tables import Table

if TYPE_CHECKING:
    from pcl_jax.runs.plan import Step
    from pcl_jax.runs.records import Row
    from pcl_jax.runs.study import Study


@dataclass(frozen=True)
class ViewsAblation(flags.Experiment):
    """Pre-training with every set of views."""

    repeats: int = 10
    """Subsets and initialisations per fold and share of the labels."""
    fractions: tuple[float, ...] = (0.02, 0.05, 0.1, 0.25)
    """Shares of the labels."""


def main(command: ViewsAblation) -> None:
    from pcl_jax.commands import terminal

    rows = cli.experiment(command, "views_ablation", lambda study: plan(study, command))
    terminal.out.print(table(rows).markdown(), markup=False, highlight=False)


def plan(study: "Study", command: ViewsAblation) -> "Iterator[Step]":
    """All runs: supervised, and tuned after each pre-training.

    Raises:
        UsageError: fewer than two views.
    """
    from pcl_jax.runs.plan import Step
    from pcl_jax.runs.study import Pretrain, Task

    if len(study.views) < 2:
        raise cli.UsageError(
            f"--views {' '.join(study.views)}: a single view has no other to agree with; give two or more"
        )
    draws = [(fraction, repeat) for fraction in command.fractions for repeat in range(command.repeats)]
    for count in range(len(study.views), 1, -1):
        for chosen in combinations(study.views, count):
            of = study if count == len(study.views) else study.of_views(chosen)
            for fold in command.folds:
                yield Step(of, Pretrain(fold))
                encoders = of.pretraining_folder(fold)
                for fraction, repeat in draws:
                    for view in chosen:
                        yield Step(of, Task(fold, view, encoders, False, fraction, repeat))
                        if of is study:
                            yield Step(of, Task(fold, view, None, False, fraction, repeat))


def table(rows: "Sequence[Row]") -> Table:
    """One line per view and share of labels, one column per set of views."""
    folds = {row["fold"] for row in rows}
    sets = sorted({tuple(row["views"]) for row in rows}, key=lambda of: (len(of), of))
    names = {row["title"]: row["view"] for row in rows}
    lines = []
    for view in views(rows):
        for amount in amounts(rows):
            cells = []
            for of in sets:
                some = [
                    row
                    for row in rows
                    if (row["title"], labels(row), tuple(row["views"])) == (view, amount, of)
                ]
                holds = not of or names[view] in of
                cells.append(mean_text(per_repeat(some, folds)) if holds else "")
            lines.append((view, amount, *cells))
    heads = [" + ".join(of) or "supervised" for of in sets]
    return Table("UAR in % by the views pre-trained together", ("view", "labels", *heads), lines)


if __name__ == "__main__":
    command = tyro.cli(ViewsAblation, default=flags.default(ViewsAblation, sys.argv[1:]), description=__doc__)
    cli.guarded(lambda: main(command), debug=command.debug)
