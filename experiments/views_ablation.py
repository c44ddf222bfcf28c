"""Beyond the paper: every combination of the views, and what each view gains from the others.

    python -m experiments.views_ablation --corpus emodb --root DIR --speech-model DIR

The paper pre-trains all three views at once and calls its framework fit for "any combination and number of
views". Here every set of at least two views is pre-trained (a single view has no other to agree with), and
each of its views is tuned on few labels. The runs on all views are those of `experiments.sparse_labels`.

The command prints one Markdown table: for each view and share of labels UAR in %, mean over repeats (each
the mean over the folds) and the half-width of its 95 % t-interval, supervised and after pre-training with
each set of partners; a column is empty where its set does not hold the line's view.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from experiments.experiment import Choice, Exhibit, Experiment, main
from pcl_jax.commands import flags
from pcl_jax.commands.session import UsageError
from pcl_jax.runs.summary import (
    NO_SCORES,
    amount,
    amounts,
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
class ViewsAblation(flags.Experiment):
    """Pre-training with every set of views."""

    repeats: int = 10
    """Subsets and initialisations per fold and share of the labels."""
    fractions: tuple[float, ...] = (0.02, 0.05, 0.1, 0.25)
    """Shares of the labels."""


def plan(runner: "Runner", command: ViewsAblation) -> "Iterator[Spec]":
    """Yield all runs: supervised, and tuned after each pre-training.

    Raises:
        UsageError: fewer than two views.
    """
    from pcl_jax.runs.spec import Finetune, Labels, Pretrain

    if len(runner.views) < 2:
        raise UsageError(
            f"--views {' '.join(runner.views)}: a single view has no other to agree with; give two or more"
        )
    draws = [
        Labels(fraction, None, repeat) for fraction in command.fractions for repeat in range(command.repeats)
    ]
    for count in range(len(runner.views), 1, -1):
        for chosen in combinations(runner.views, count):
            for fold in command.folds:
                start = Pretrain(fold, chosen, settings=runner.settings)
                yield start
                for labels in draws:
                    for view in chosen:
                        yield Finetune(fold, view, start, False, labels, runner.settings)
                        if count == len(runner.views):
                            yield Finetune(fold, view, None, False, labels, runner.settings)


def select(rows: "Sequence[Row]", choice: Choice) -> "list[Row]":
    """Return supervised and tuned runs, with the amounts of labels that more than one set of views has."""
    found = [
        row
        for row in rows
        if method_of(row) in ("supervised", "tuned")
        and (not row["views"] or (row["temperature"], row["pretrained_on"]) == (choice.temperature, "all"))
    ]
    amounts_in_use = {amount(row) for row in found if row["views"] and tuple(row["views"]) != choice.views}
    return [row for row in found if amount(row) in amounts_in_use]


def table(rows: "Sequence[Row]") -> Table:
    """Return a line per view and amount of labels, with a column per set of views."""
    sets = sorted({tuple(row["views"]) for row in rows}, key=lambda names: (len(names), names))
    name_of = {row["title"]: row["view"] for row in rows}
    cells = group_rows(rows, lambda row: (row["title"], amount(row), tuple(row["views"])))
    keys = [
        (view, labelled, names)
        for view in views(rows)
        for labelled in amounts(rows)
        for names in sets
        if not names or name_of[view] in names
    ]
    texts = score_texts({key: scores_of(cells[key]) if key in cells else NO_SCORES for key in keys})
    lines = [
        (view, str(labelled), *(texts.get((view, labelled, names), "") for names in sets))
        for view in views(rows)
        for labelled in amounts(rows)
    ]
    heads = [" + ".join(names) or "supervised" for names in sets]
    return Table("UAR in % by the views pre-trained together", ("view", "labels", *heads), lines)


EXPERIMENT = Experiment(
    name="views_ablation",
    description=__doc__,
    flags=ViewsAblation,
    plan=plan,
    exhibits=(Exhibit("Beyond the paper", select, table, optional=True),),
)

if __name__ == "__main__":
    main(EXPERIMENT)
