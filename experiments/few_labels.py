"""Few labels: what each method makes of them, when no other label is read.

    python -m experiments.few_labels --corpus emodb --root DIR --json few_labels.json

A method gets the labels of a budget, some per cent of them or some of each class, and the unlabelled rest of
the training sessions. It reads no other label, and nothing of the validation session: which view, which
normalisation, which weights is decided by cross-validation within the budget (protocol "budget").
"probe" is what a careful user of any toolkit has: a logistic regression on the best single view. `--methods`
adds "pretrained+METHOD", where representations by a Pairwise-CL encoder stand beside the plain features, and
the paper's own "supervised" and "pairwise-cl" (protocol "paper": they read the labels of the whole validation
session to stop and to choose the best view). Finished runs are not repeated: stop it and run it again to
resume.

The command prints one table: for each method and amount of labels the UAR in % over all test speakers, mean
over the repeats, its difference to "probe" on the same labels, and the share of resamples in which it is
above (P(A > B)). Intervals are of 95 %, by a bootstrap over test speakers and repeats together
(`pcl_jax.evaluation.bootstrap`); p is Holm-corrected over all methods but probes. Brier score and
calibration error are those of the test session's probabilities. `--json` writes the same numbers for other
programs.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.budget import (
    BASELINE,
    NETWORKS,
    RECIPE,
    Cell,
    cells,
    largest_views,
    mean_of,
    means,
    normalisation,
)
from experiments.experiment import Choice, Exhibit, Experiment, main
from experiments.figures import methods_over_labels
from pcl_jax.commands import flags
from pcl_jax.commands.session import UsageError
from pcl_jax.runs.summary import method_of
from pcl_jax.runs.tables import NOT_RUN, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pcl_jax.evaluation.bootstrap import Estimate
    from pcl_jax.runs.records import Row
    from pcl_jax.runs.runner import Runner
    from pcl_jax.runs.spec import Labels, Scored, Spec


@dataclass(frozen=True)
class FewLabels(flags.Experiment):
    """Methods for few labels, on all folds."""

    repeats: int = 10
    """Labelled subsets per fold and amount of labels."""
    fractions: tuple[float, ...] = (0.02, 0.05, 0.1, 0.25, 1.0)
    """Shares of the labels."""
    per_class: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """Numbers of labels of each class, in addition to the shares."""
    methods: tuple[str, ...] = ()
    """probe, probe:VIEW, fusion, co-training, recipe, pretrained+METHOD, and the paper's supervised and
    pairwise-cl. None given: all but the pre-trained and the paper's. "probe" is always among them."""
    json: Path | None = None
    """File for the numbers of the table."""


def plan(runner: "Runner", command: FewLabels) -> "Iterator[Spec]":
    """Yield all runs, few labels first.

    Raises:
        UsageError: an unknown method.
    """
    from pcl_jax.runs.spec import Labels

    methods = methods_of(runner, command)
    draws = [Labels(share, None, repeat) for share in command.fractions for repeat in range(command.repeats)]
    draws += [Labels(1.0, count, repeat) for count in command.per_class for repeat in range(command.repeats)]
    for fold in command.folds:
        if any(name.startswith("pretrained+") or name == "pairwise-cl" for name in methods):
            yield runner.pretraining(fold)
        for labels in draws:
            for method in methods:
                yield from specs_of(runner, method, fold, labels)


def methods_of(runner: "Runner", command: FewLabels) -> tuple[str, ...]:
    """Return the methods of a command, the baseline first.

    Raises:
        UsageError: an unknown method.
    """
    from pcl_jax.training.recipe import METHODS

    usual = (*METHODS, *(f"{BASELINE}:{view}" for view in runner.views))
    known = (*usual, *(f"pretrained+{name}" for name in METHODS), *NETWORKS.values())
    for name in command.methods:
        if name not in known:
            raise UsageError(f"--methods {name}: no such method; there are {', '.join(known)}")
    return tuple(dict.fromkeys((BASELINE, *(command.methods or usual))))


def specs_of(runner: "Runner", method: str, fold: int, labels: "Labels") -> "Iterator[Scored]":
    """Yield the runs that a method takes on one fold with one labelled subset."""
    from pcl_jax.runs.spec import FewLabels, Finetune

    every, settings = tuple(runner.views), runner.settings
    if method in NETWORKS.values():
        start = None if method == "supervised" else runner.pretraining(fold)
        for view in every:
            yield Finetune(fold, view, start, False, labels, settings)
    elif name := method.removeprefix("pretrained+") if method.startswith("pretrained+") else "":
        yield FewLabels(fold, every, name, labels, runner.pretraining(fold), settings)
    else:
        name, _, view = method.partition(":")
        yield FewLabels(fold, (view,) if view else every, name, labels)


def select(rows: "Sequence[Row]", choice: Choice) -> "list[Row]":
    """Return the runs of the largest set of views, and the paper's networks on these views."""
    budget = [row for row in rows if row.get("choice") is not None]
    every = largest_views(budget)
    names = every.split("+")
    return [
        row
        for row in budget
        if (row["view"] == every or (row["method"] == BASELINE and row["view"] in names))
        and (not row["views"] or (choice.pretrained(row) and row["pretrained_on"] == "all"))
    ] + [
        row
        for row in rows
        if budget and method_of(row) in NETWORKS and row["view"] in names and choice.holds(row)
    ]


NOTE = """\
UAR in % over all test speakers, mean over repeats; 95 % intervals by a bootstrap over test speakers and
repeats. Protocol budget: no other label is read; paper: the validation session's labels are read as well,
and the view that validates best is shown. Normalised by speaker means transductive: the test speakers'
unlabelled audio is used. P(A > B): share of resamples in which the method is above the probe. p: t-test
with the bootstrap's standard error, Holm-corrected over the methods other than probes and the single
amounts, and over the means. Recipe minus it: difference of the recipe to the method of the line, of the same
speakers and labels. The calibration error is over bins of about 20 utterances of one test session,
mean over runs."""


def table(rows: "Sequence[Row]") -> Table:
    """Return a line per amount of labels and method, then the means over few labels."""
    return Table(
        "Few labels",
        (
            "labels", "n", "method", "protocol", "normalised by", "UAR", f"difference to {BASELINE}",
            "P(A > B)", "p (Holm)", f"{RECIPE} minus it", "Brier", "calibration error",
        ),
        [_line(cell) for cell in (*cells(rows), *means(rows))],
        NOTE,
    )  # fmt: skip


def _line(cell: Cell) -> tuple[str, ...]:
    compared = cell.method != BASELINE and np.isfinite(cell.difference.value)
    beside_recipe = cell.method != RECIPE and np.isfinite(cell.recipe.value)
    amounts = ", ".join(map(str, cell.amounts))
    return (
        amounts if len(cell.amounts) == 1 else f"mean of {amounts}",
        f"{n_labelled(cell):.0f}",
        cell.method,
        cell.protocol,
        normalisation(cell.rows),
        interval_text(cell.uar, ".1f"),
        interval_text(cell.difference, "+.1f") if compared else "",
        f"{cell.difference.above:.3f}" if compared else "",
        f"{cell.p:.3f}" if np.isfinite(cell.p) else "",
        interval_text(cell.recipe, "+.1f") if beside_recipe else "",
        *(f"{value:.2f}" if np.isfinite(value) else "" for value in calibration(cell)),
    )


def interval_text(estimate: "Estimate", form: str) -> str:
    """Return an estimate and its interval in %: "+5.0 [+1.0, +9.0]"."""
    value, low, high = (format(100 * x, form) for x in estimate[:3])
    if not np.isfinite(estimate.value):
        return NOT_RUN
    return f"{value} [{low}, {high}]" if np.isfinite(estimate.low) else value


def n_labelled(cell: Cell) -> float:
    """Return the mean number of labels."""
    return float(np.mean([row["n_labelled"] for row in cell.rows]))


def calibration(cell: Cell) -> tuple[float, float]:
    """Return the mean Brier score and the mean calibration error of the runs."""
    return mean_of(cell.rows, "Brier"), mean_of(cell.rows, "calibration error")


def figure(rows: "Sequence[Row]") -> "Figure":
    """Draw UAR over the labels, a line per method."""
    return methods_over_labels(
        {(cell.method, cell.amounts[0]): tuple(100 * x for x in cell.uar[:3]) for cell in cells(rows)},
        banded=(BASELINE, RECIPE),
    )


def save(rows: "Sequence[Row]", command: FewLabels) -> None:
    """Write the numbers of the table as a list of objects; a value that cannot be told is null."""
    from pcl_jax.runs.files import write_atomically

    if command.json is None:
        return
    found = [json_row(cell) for cell in cells(rows)]
    write_atomically(command.json, json.dumps(found, indent=1, allow_nan=False).encode())


def json_row(cell: Cell) -> dict[str, str | float | None]:
    """Return one cell for other programs: scores in %, one of fraction and per_class null."""
    (labels,) = cell.amounts
    numbers = (*cell.uar[:3], *cell.difference[:3])
    uar, low, high, *difference = (round(100 * x, 4) if np.isfinite(x) else None for x in numbers)
    return {
        "method": cell.method,
        "protocol": cell.protocol,
        "fraction": None if labels.per_class else labels.fraction,
        "per_class": labels.per_class or None,
        "n_labelled": round(n_labelled(cell), 1),
        "uar": uar,
        "low": low,
        "high": high,
        **dict(zip(("difference", "difference_low", "difference_high"), difference, strict=True)),
        "baseline": BASELINE,
    }


EXPERIMENT = Experiment(
    name="few_labels",
    description=__doc__,
    flags=FewLabels,
    plan=plan,
    exhibits=(Exhibit("Beyond the paper", select, table, figure=figure, optional=True),),
    save=save,
)

if __name__ == "__main__":
    main(EXPERIMENT)
