"""Figure 4: does it matter which emotions the unlabelled speech holds?

    python -m experiments.pretraining_data --corpus ravdess --root DIR --targets neutral angry sad happy

Paper (IEMOCAP): pre-training on the target emotions (IEMOCAP-4) is at least as good as on the other emotions
(out of distribution), with gaps smaller than those of Figure 3; everything (IEMOCAP-10) is what all other
experiments pre-train on. The runs on everything are those of `experiments.sparse_labels`.

Each fold is pre-trained on all utterances of its training sessions, on those of target emotions, and on the
rest; then each view is tuned on few labels. Prints one Markdown table: UAR in %, mean over repeats (each
the mean over the folds) and the half-width of its 95 % t-interval; target minus rest with the statistics of
`experiments.sparse_labels`; and how many utterances of the corpus each pre-training can see at most.
The sets differ in size as well: all > target, and the rest may be larger or smaller than target.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import tyro

from pcl_jax import cli, flags
from pcl_jax.config import SubsetName
from pcl_jax.summary import GAIN_HEAD, amounts, gain_texts, gains, labels, mean_text, per_repeat, views
from pcl_jax.tables import Table

if TYPE_CHECKING:
    from pcl_jax.records import Row
    from pcl_jax.training.plan import Step
    from pcl_jax.training.study import Study

HEADS = {"all": "all", "target": "target emotions", "out_of_distribution": "other emotions"}


@dataclass(frozen=True)
class PretrainingData(flags.Experiment):
    """Pre-training on all utterances, on target emotions, on the rest."""

    repeats: int = 10
    """Subsets and initialisations per fold and share of the labels."""
    fractions: tuple[float, ...] = (0.02, 0.05, 0.1, 0.25)
    """Shares of the labels."""


def main(command: PretrainingData) -> None:
    from pcl_jax import terminal

    rows = cli.experiment(command, "pretraining_data", lambda study: plan(study, command))
    terminal.out.print(table(rows).markdown(), markup=False, highlight=False)


def plan(study: "Study", command: PretrainingData) -> "Iterator[Step]":
    """All runs of Figure 4: tuned encoders alone."""
    from pcl_jax.training.plan import Step
    from pcl_jax.training.study import Pretrain, Task

    for subset in get_args(SubsetName):
        on = study.pretraining_with(subset=subset)
        for fold in command.folds:
            yield Step(on, Pretrain(fold))
            encoders = on.pretraining_folder(fold)
            for fraction in command.fractions:
                for repeat in range(command.repeats):
                    for view in on.views:
                        yield Step(on, Task(fold, view, encoders, False, fraction, repeat))


def table(rows: "Sequence[Row]") -> Table:
    """One line per view and share of labels."""
    folds = {row["fold"] for row in rows}
    of = {
        (view, amount): {
            subset: per_repeat(
                [
                    row
                    for row in rows
                    if (row["title"], labels(row), row["pretrained_on"]) == (view, amount, subset)
                ],
                folds,
            )
            for subset in HEADS
        }
        for view in views(rows)
        for amount in amounts(rows)
    }
    gained = gains({key: (found["target"], found["out_of_distribution"]) for key, found in of.items()})
    lines = [
        (*key, *(mean_text(values) for values in found.values()), *gain_texts(gained.get(key)))
        for key, found in of.items()
    ]
    note = "UAR in %, tuned encoders; columns after experiments.sparse_labels."
    if rows:
        target, everything = sum(rows[0]["counts"]), rows[0]["utterances"]
        note += f" The corpus has {everything} utterances, {target} of them of target emotions."
    return Table(
        "What the pre-training saw",
        ("view", "labels", *HEADS.values(), "target - other", *GAIN_HEAD),
        lines,
        note,
    )


if __name__ == "__main__":
    command = tyro.cli(
        PretrainingData, default=flags.default(PretrainingData, sys.argv[1:]), description=__doc__
    )
    cli.guarded(lambda: main(command), debug=command.debug)
