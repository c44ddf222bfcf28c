r"""Figure 4: does it matter which emotions the unlabelled speech holds?

    python -m experiments.pretraining_data --corpus ravdess --root DIR --targets neutral angry sad happy

Paper (IEMOCAP): pre-training on the target emotions (IEMOCAP-4) is at least as good as on the other emotions
(out of distribution), with gaps smaller than those of Figure 3; everything (IEMOCAP-10) is what all other
experiments pre-train on. The runs on everything are those of `experiments.sparse_labels`.

Each fold is pre-trained on all utterances of its training sessions, on those of target emotions, and on the
rest; then each view is tuned on few labels. The command prints one Markdown table: UAR in %, mean over
repeats (each the mean over the folds) and the half-width of its 95 % t-interval; target minus rest with the
statistics of `experiments.sparse_labels`; and how many utterances of the corpus each pre-training can see
at most. The sets differ in size as well: all > target, and the rest may be larger or smaller than target.

Beyond the paper, how much unlabelled speech it takes:

    python -m experiments.pretraining_data --corpus emodb --root DIR --unlabelled 128 256 \\
        --extra-corpora ravdess=DIR

`--unlabelled` also pre-trains on that many utterances of the training sessions, chosen at random;
`--extra-corpora` adds the speech of other corpora (CORPUS=ROOT) to every fold's. Their labels are not used,
and a corpus that holds a recording of this one is refused. A second table has UAR over the number of
utterances that were pre-trained on, from none (supervised), and its figure stands in the report.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, get_args

import numpy as np

from experiments.experiment import Choice, Exhibit, Experiment, main
from experiments.figures import over_unlabelled, subset_curves
from pcl_jax.commands import flags
from pcl_jax.config import SubsetName
from pcl_jax.runs.summary import (
    CONDITIONAL,
    GAIN_HEAD,
    NO_SCORES,
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
    from pcl_jax.runs.spec import Pretrain, Spec

HEADS = {"all": "all", "target": "target emotions", "out_of_distribution": "other emotions"}
"""Utterances pre-trained on, as records say it -> heading."""


@dataclass(frozen=True)
class PretrainingData(flags.Experiment):
    """Pre-training on all utterances, on target emotions, on the rest."""

    repeats: int = 10
    """Subsets and initialisations per fold and share of the labels."""
    fractions: tuple[float, ...] = (0.02, 0.05, 0.1, 0.25)
    """Shares of the labels."""
    unlabelled: tuple[int, ...] = ()
    """Pre-train on these numbers of utterances as well."""
    extra_corpora: tuple[str, ...] = ()
    """Additional corpora to pre-train on as well, CORPUS=ROOT."""


def plan(runner: "Runner", command: PretrainingData) -> "Iterator[Spec]":
    """Yield all runs of Figure 4, tuned encoders alone; then those over the amount of unlabelled speech."""
    for subset in get_args(SubsetName):
        pretrainings = (runner.pretraining(fold, subset=subset) for fold in command.folds)
        yield from _tuned(runner, command, pretrainings)
    if command.unlabelled or runner.extra_corpora:
        yield from amounts_plan(runner, command)


def amounts_plan(runner: "Runner", command: PretrainingData) -> "Iterator[Spec]":
    """Yield supervised runs, and tuned ones after pre-training on fewer utterances or with extra corpora."""
    from pcl_jax.runs.spec import Finetune, Labels

    for fold, fraction, repeat in product(command.folds, command.fractions, range(command.repeats)):
        for view in runner.views:
            yield Finetune(fold, view, None, False, Labels(fraction, None, repeat), runner.settings)
    for count in sorted(command.unlabelled):
        pretrainings = (runner.pretraining(fold, utterances=count) for fold in command.folds)
        yield from _tuned(runner, command, pretrainings)
    if runner.extra_corpora:
        names = tuple(runner.extra_corpora)
        pretrainings = (replace(runner.pretraining(fold), extra_corpora=names) for fold in command.folds)
        yield from _tuned(runner, command, pretrainings)


def _tuned(
    runner: "Runner", command: PretrainingData, pretrainings: "Iterable[Pretrain]"
) -> "Iterator[Spec]":
    from pcl_jax.runs.spec import Finetune, Labels

    for start in pretrainings:
        yield start
        for fraction, repeat in product(command.fractions, range(command.repeats)):
            for view in runner.views:
                labels = Labels(fraction, None, repeat)
                yield Finetune(start.fold, view, start, False, labels, runner.settings)


def pretraining_name(row: "Row") -> str:
    """Return what an encoder was pre-trained on, "none" for a supervised run."""
    return row["pretrained_on"] or "none"


def _tuned_rows(rows: "Sequence[Row]", choice: Choice) -> "list[Row]":
    return [row for row in rows if method_of(row) == "tuned" and choice.pretrained(row)]


def select(rows: "Sequence[Row]", choice: Choice) -> "list[Row]":
    """Return the tuned runs of Figure 4, with the amounts of labels that its subsets have."""
    tuned = [row for row in _tuned_rows(rows, choice) if row["pretrained_on"] in HEADS]
    amounts_in_use = {amount(row) for row in tuned if row["pretrained_on"] != "all"}
    return [row for row in tuned if amount(row) in amounts_in_use]


def select_amounts(rows: "Sequence[Row]", choice: Choice) -> "list[Row]":
    """Return supervised and tuned runs, with the labels that runs on other amounts of speech have."""
    tuned = [
        row
        for row in _tuned_rows(rows, choice)
        if row["pretrained_on"] not in ("target", "out_of_distribution")
    ]
    amounts_in_use = {amount(row) for row in tuned if row["pretrained_on"] != "all"}
    supervised = [row for row in rows if method_of(row) == "supervised" and choice.holds(row)]
    return [row for row in (*supervised, *tuned) if amount(row) in amounts_in_use]


def by_amount(rows: "Sequence[Row]") -> dict[str, float]:
    """Return what was pre-trained on, subsets left out -> number of utterances, few before many.

    The number is the mean over folds.
    """
    counts: dict[str, list[int]] = {}
    for row in rows:
        name = pretraining_name(row)
        if method_of(row) in ("supervised", "tuned") and name not in ("target", "out_of_distribution"):
            counts.setdefault(name, []).append(row.get("n_pretrained", 0))
    means = {name: float(np.mean(found)) for name, found in counts.items()}
    return dict(sorted(means.items(), key=lambda item: item[1]))


def amount_text(name: str, count: float) -> str:
    """Return how many utterances were pre-trained on, and of which extra corpora.

    >>> amount_text("all, 128 utterances", 128), amount_text("all + ravdess", 1760.2), amount_text("none", 0)
    ('128', '1760 + ravdess', 'supervised')
    """
    _, *corpora = name.partition(",")[0].split(" + ")
    return "supervised" if name == "none" else " + ".join([f"{count:.0f}", *corpora])


def amounts_table(rows: "Sequence[Row]") -> Table:
    """Return a line per view and amount of labels, with a column per amount of unlabelled speech."""
    rows = [row for row in rows if method_of(row) in ("supervised", "tuned")]
    columns = by_amount(rows)
    cells = group_rows(rows, lambda row: (row["title"], amount(row), pretraining_name(row)))
    keys = list(product(views(rows), amounts(rows), columns))
    texts = score_texts({key: scores_of(cells[key]) if key in cells else NO_SCORES for key in keys})
    lines = [
        (view, str(labelled), *(texts[view, labelled, name] for name in columns))
        for view in views(rows)
        for labelled in amounts(rows)
    ]
    heads = [amount_text(name, count) for name, count in columns.items()]
    return Table(
        "UAR over the utterances pre-trained on",
        ("view", "labels", *heads),
        lines,
        "UAR in %, tuned encoders; the number of unlabelled utterances is the mean over folds.",
    )


def amounts_figure(rows: "Sequence[Row]") -> "Figure":
    """Draw the table of the amounts of unlabelled speech."""
    return over_unlabelled(rows, by_amount(rows))


def table(rows: "Sequence[Row]") -> Table:
    """Return a line per view and amount of labels."""
    cells = group_rows(rows, lambda row: (row["title"], amount(row), pretraining_name(row)))
    keys = list(product(views(rows), amounts(rows), HEADS))
    texts = score_texts({key: scores_of(cells[key]) if key in cells else NO_SCORES for key in keys})
    gained = gains(pairs(rows, "target", "out_of_distribution", pretraining_name))
    lines = [
        (
            view,
            str(labelled),
            *(texts[view, labelled, subset] for subset in HEADS),
            *gain_texts(gained.get((view, labelled))),
        )
        for view in views(rows)
        for labelled in amounts(rows)
    ]
    note = f"UAR in %, tuned encoders; columns as those of Figure 3. {CONDITIONAL}"
    if rows:
        target, total = sum(rows[0]["counts"]), rows[0]["utterances"]
        note += f" The corpus has {total} utterances, {target} of them of target emotions."
    return Table(
        "What the pre-training saw",
        ("view", "labels", *HEADS.values(), "target - other", *GAIN_HEAD),
        lines,
        note,
    )


EXPERIMENT = Experiment(
    name="pretraining_data",
    description=__doc__,
    flags=PretrainingData,
    plan=plan,
    exhibits=(
        Exhibit("Figure 4", select, table, figure=subset_curves),
        Exhibit("Beyond the paper", select_amounts, amounts_table, figure=amounts_figure, optional=True),
    ),
    extra_corpora=lambda command: command.extra_corpora,
)

if __name__ == "__main__":
    main(EXPERIMENT)
