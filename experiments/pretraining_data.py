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

Beyond the paper, how much unlabelled speech it takes:

    python -m experiments.pretraining_data --corpus emodb --root DIR --unlabelled 128 256 --also ravdess=DIR

`--unlabelled` pre-trains on so many utterances of the training sessions as well, chosen at random; `--also`
adds the speech of other corpora (CORPUS=ROOT), whose labels are not used, to every fold's, and refuses one
that holds a recording of this corpus. A second table has UAR over the number of utterances that were
pre-trained on, from none (supervised), and its figure stands in the report.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, get_args

import numpy as np
import tyro

from pcl_jax import cli
from pcl_jax.commands import flags
from pcl_jax.config import SubsetName
from pcl_jax.runs.summary import (
    GAIN_HEAD,
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
    from pcl_jax.data.load import ExtraCorpus
    from pcl_jax.runs.plan import Step
    from pcl_jax.runs.records import Row
    from pcl_jax.runs.study import Study

HEADS = {"all": "all", "target": "target emotions", "out_of_distribution": "other emotions"}


@dataclass(frozen=True)
class PretrainingData(flags.Experiment):
    """Pre-training on all utterances, on target emotions, on the rest."""

    repeats: int = 10
    """Subsets and initialisations per fold and share of the labels."""
    fractions: tuple[float, ...] = (0.02, 0.05, 0.1, 0.25)
    """Shares of the labels."""
    unlabelled: tuple[int, ...] = ()
    """Pre-train on so many utterances as well."""
    also: tuple[str, ...] = ()
    """Other corpora to pre-train on as well, CORPUS=ROOT."""


def main(command: PretrainingData) -> None:
    from pcl_jax.commands import terminal

    def planned(study: "Study") -> "Iterator[Step]":
        yield from plan(study, command)
        if command.unlabelled or command.also:
            yield from amounts_plan(study, command, cli.beside(command, study, command.also))

    rows = cli.experiment(command, "pretraining_data", planned)
    terminal.out.print(table(rows).markdown(), markup=False, highlight=False)
    if command.unlabelled or command.also:
        terminal.out.print(amounts_table(rows).markdown(), markup=False, highlight=False)


def plan(study: "Study", command: PretrainingData) -> "Iterator[Step]":
    """All runs of Figure 4: tuned encoders alone."""
    for subset in get_args(SubsetName):
        yield from _tuned(study.pretraining_with(subset=subset), command)


def amounts_plan(
    study: "Study", command: PretrainingData, others: "Sequence[ExtraCorpus]"
) -> "Iterator[Step]":
    """Supervised; tuned after pre-training on so many utterances, and on all with other corpora beside."""
    from pcl_jax.runs.plan import Step
    from pcl_jax.runs.study import Task

    for fold, fraction, repeat in product(command.folds, command.fractions, range(command.repeats)):
        for view in study.views:
            yield Step(study, Task(fold, view, None, False, fraction, repeat))
    for amount in sorted(command.unlabelled):
        yield from _tuned(study.pretraining_with(utterances=amount), command)
    if others:
        yield from _tuned(study.pretraining_beside(others), command)


def _tuned(study: "Study", command: PretrainingData) -> "Iterator[Step]":
    from pcl_jax.runs.plan import Step
    from pcl_jax.runs.study import Pretrain, Task

    for fold in command.folds:
        yield Step(study, Pretrain(fold))
        encoders = study.pretraining_folder(fold)
        for fraction, repeat in product(command.fractions, range(command.repeats)):
            for view in study.views:
                yield Step(study, Task(fold, view, encoders, False, fraction, repeat))


def pretraining_name(row: "Row") -> str:
    """What a tuned encoder was pre-trained on, or that it was not."""
    return row["pretrained_on"] or "none"


def by_amount(rows: "Sequence[Row]") -> dict[str, float]:
    """What was pre-trained on, but subsets -> how many utterances, the mean over folds; few before many."""
    counts: dict[str, list[int]] = {}
    for row in rows:
        if method_of(row) in ("supervised", "tuned") and pretraining_name(row) not in (
            "target",
            "out_of_distribution",
        ):
            counts.setdefault(pretraining_name(row), []).append(row.get("n_pretrained", 0))
    return dict(sorted(((name, float(np.mean(of))) for name, of in counts.items()), key=lambda item: item[1]))


def amount_text(name: str, count: float) -> str:
    """How many utterances were pre-trained on, and of which other corpora.

    >>> amount_text("all, 128 utterances", 128), amount_text("all + ravdess", 1760.2), amount_text("none", 0)
    ('128', '1760 + ravdess', 'supervised')
    """
    _, *others = name.partition(",")[0].split(" + ")
    return "supervised" if name == "none" else " + ".join([f"{count:.0f}", *others])


def amounts_table(rows: "Sequence[Row]") -> Table:
    """One line per view and share of labels, one column per amount of unlabelled speech."""
    rows = [row for row in rows if method_of(row) in ("supervised", "tuned")]
    columns, folds = by_amount(rows), {row["fold"] for row in rows}
    of: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        of.setdefault((row["title"], labels(row), pretraining_name(row)), []).append(row)
    lines = [
        (view, amount, *(mean_text(per_repeat(of.get((view, amount, name), ()), folds)) for name in columns))
        for view in views(rows)
        for amount in amounts(rows)
    ]
    heads = [amount_text(name, count) for name, count in columns.items()]
    return Table(
        "UAR over the utterances pre-trained on",
        ("view", "labels", *heads),
        lines,
        "UAR in %, tuned encoders; the number of unlabelled utterances is the mean over folds.",
    )


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
