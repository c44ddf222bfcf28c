"""Tables 1 and 4: all labels, by temperature, encoders frozen and tuned, beside supervised training.

    python -m experiments.temperature --corpus emodb --root DIR

Paper (IEMOCAP, one run per fold): tau = 0.5 has the best average rank on the validation and on the test
session; tuned encoders beat frozen ones by 3 points (mel, eGeMAPS) to 8 (wav2vec 2.0); against supervised
training the best gain is 3 points, for eGeMAPS. The command pre-trains each fold once per temperature, and
fine-tunes each view twice on it. Finished runs are not repeated: stop it and run it again to resume.

It prints one Markdown table in the layout of Table 4: UAR and WA in % of the validation and the test session,
means over folds and repeats. A rank is 1 for the highest value of its column; the last two columns are the
means of the ranks in the columns of the validation and of the test session.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from scipy import stats

from experiments.experiment import Choice, Exhibit, Experiment, main
from pcl_jax.commands import flags
from pcl_jax.runs.summary import (
    ALL_LABELS,
    NO_SCORES,
    amount,
    folds_text,
    group_rows,
    method_of,
    scores_of,
    views,
)
from pcl_jax.runs.tables import NOT_RUN, Table

if TYPE_CHECKING:
    from pcl_jax.runs.records import Row
    from pcl_jax.runs.runner import Runner
    from pcl_jax.runs.spec import Spec

PAPER = {
    (0.0, False): ((61.35, 60.72, 62.00, 59.43), (55.11, 54.59, 53.39, 52.09), (48.62, 48.00, 49.97, 48.10)),
    (0.1, False): ((62.49, 62.06, 62.24, 61.50), (53.36, 52.69, 51.20, 49.94), (51.32, 51.09, 51.38, 49.69)),
    (0.1, True): ((55.67, 54.93, 57.18, 55.13), (47.78, 47.79, 47.45, 47.27), (49.08, 48.63, 50.05, 48.76)),
    (0.25, False): ((62.88, 62.46, 62.38, 61.59), (53.17, 52.64, 50.69, 50.17), (50.85, 49.72, 50.77, 47.99)),
    (0.25, True): ((57.11, 56.41, 56.77, 54.59), (47.20, 47.81, 47.07, 46.99), (49.54, 49.58, 48.99, 49.02)),
    (0.5, False): ((62.73, 61.80, 63.11, 61.36), (54.89, 54.06, 53.37, 51.97), (50.66, 50.13, 52.96, 49.16)),
    (0.5, True): ((55.60, 55.05, 55.43, 53.97), (47.15, 47.37, 50.34, 48.43), (48.81, 48.47, 49.65, 48.97)),
    (1.0, False): ((62.22, 60.90, 62.35, 60.88), (53.99, 53.07, 51.97, 49.61), (50.60, 49.97, 50.34, 48.43)),
    (1.0, True): ((55.40, 54.83, 54.33, 53.21), (47.39, 47.33, 47.00, 46.00), (47.57, 46.72, 48.74, 45.91)),
}
"""Khaertdinov et al. 2024, Table 4: (temperature, frozen; 0 is supervised) -> for wav2vec 2.0, mel, eGeMAPS
validation UAR and WA, test UAR and WA. The validation WA of supervised eGeMAPS is cut off after "48." in our
copy; whatever follows, its rank is 8."""
VIEWS = ("wav2vec2", "mel", "egemaps")
"""Views of `PAPER`, in its order."""
TEMPERATURES = (0.1, 0.25, 0.5, 1.0)
"""Temperatures of the paper's search."""

SCORES = ("validation_uar", "validation_wa", "uar", "wa")
"""Fields of a record, in the order of `PAPER`."""


@dataclass(frozen=True)
class Temperature(flags.Experiment):
    """All labels: which temperature, and is the encoder better frozen or tuned?"""

    temperatures: tuple[float, ...] = TEMPERATURES
    repeats: int = 1
    """Initialisations per fold."""


def plan(runner: "Runner", command: Temperature) -> "Iterator[Spec]":
    """Yield all runs of Table 4; those of supervised training are the same for each temperature."""
    from pcl_jax.runs.plan import label_efficiency

    for temperature in command.temperatures:
        pretrainings = [runner.pretraining(fold, temperature=temperature) for fold in command.folds]
        yield from label_efficiency(pretrainings, runner.settings, {1.0: command.repeats}, probes=False)


def select(rows: "Sequence[Row]", choice: Choice) -> "list[Row]":
    """Return the networks trained on all labels: at each temperature, with the chosen views, and supervised.

    Only repeats that every model has, so that means compare like with like.
    """
    full = [
        row
        for row in rows
        if method_of(row) in ("supervised", "frozen", "tuned")
        and amount(row) == ALL_LABELS
        and (
            (tuple(row["views"]) == choice.views and row["pretrained_on"] == "all")
            or (not row["views"] and row["view"] in choice.views)
        )
    ]
    by_model = group_rows(full, lambda row: (row["title"], method_of(row), row["temperature"]))
    repeats = [{row["repeat"] for row in model} for model in by_model.values()]
    return [row for row in full if all(row["repeat"] in found for found in repeats)]


def model_of(row: "Row") -> tuple[float, bool]:
    """Return the line of Table 4 that a row belongs to: (temperature, frozen), (0, False) if supervised."""
    return row["temperature"] or 0.0, row["frozen"]


def model_cells(model: tuple[float, bool]) -> tuple[str, str, str]:
    """Return the first cells of a line of Table 4.

    >>> model_cells((0.25, True)), model_cells((0.0, False))
    (('Pairwise-CL', '0.25', 'frozen'), ('supervised', '-', '-'))
    """
    temperature, frozen = model
    if not temperature:
        return "supervised", "-", "-"
    return "Pairwise-CL", f"{temperature:g}", "frozen" if frozen else "tuned"


def table(rows: "Sequence[Row]") -> Table:
    """Return the layout of Table 4; ranks once every cell has the same folds."""
    titles, models = views(rows), sorted({model_of(row) for row in rows})
    cells = group_rows(rows, lambda row: (model_of(row), row["title"]))
    columns = [(title, score) for title in titles for score in SCORES]
    scores = {
        (model, *column): scores_of(cells[model, column[0]], column[1])
        if (model, column[0]) in cells
        else NO_SCORES
        for model in models
        for column in columns
    }
    every = frozenset().union(*(found.folds for found in scores.values()))
    averages = None
    if len(models) > 1 and all(found.folds == every for found in scores.values()):
        means = [
            [np.mean(list(scores[model, *column].by_repeat.values())) for column in columns]
            for model in models
        ]
        averages = average_ranks(np.array(means))
    lines = []
    for m, model in enumerate(models):
        texts = [
            f"{np.mean(list(found.by_repeat.values())):.1f}{folds_text(found, every)}"
            if (found := scores[model, *column]).by_repeat
            else NOT_RUN
            for column in columns
        ]
        ranks = [NOT_RUN] * 2 if averages is None else [f"{rank:.2f}" for rank in averages[m]]
        lines.append((*model_cells(model), *texts, *ranks))
    heads = [f"{title}, {score}" for title in titles for score in ("val. UAR", "val. WA", "UAR", "WA")]
    return Table(
        "All labels, by temperature",
        ("method", "τ", "encoder", *heads, "rank, val.", "rank, test"),
        lines,
        "UAR and WA in %, means over folds. Ranks: 1 for the highest value of a column; means over the "
        "columns of the validation and of the test session.",
    )


def select_iemocap(rows: "Sequence[Row]", choice: Choice) -> "list[Row]":
    """Return what `select` does, for IEMOCAP alone."""
    return [row for row in select(rows, choice) if row["corpus"] == "iemocap"]


def against_paper(rows: "Sequence[Row]", score: str = "uar") -> Table:
    """Return the paper's score of the test session, ours, and the difference: for IEMOCAP alone."""
    cells = group_rows(rows, lambda row: (model_of(row), row["view"]))
    found = {key: scores_of(cell, score) for key, cell in cells.items()}
    every = frozenset().union(*(scores.folds for scores in found.values()))
    lines = []
    for model, views_of_paper in PAPER.items():
        texts = []
        for view, numbers in zip(VIEWS, views_of_paper, strict=True):
            published = numbers[SCORES.index(score)]
            texts += [f"{published:.1f}", NOT_RUN, NOT_RUN]
            if scores := found.get((model, view)):
                mean = float(np.mean(list(scores.by_repeat.values())))
                texts[-2:] = [f"{mean:.1f}{folds_text(scores, every)}", f"{mean - published:+.1f}"]
        lines.append((*model_cells(model), *texts))
    heads = [f"{view}, {column}" for view in VIEWS for column in ("paper", "ours", "difference")]
    title = f"Test {score.upper()} beside the paper's Table 4"
    return Table(title, ("method", "τ", "encoder", *heads), lines, "In %.")


def average_ranks(scores: Float[np.ndarray, "models columns"]) -> Float[np.ndarray, "models 2"]:
    """Return the mean rank over the columns of the validation session, and over those of the test session.

    Columns are in the order of `SCORES` for each view; 1 is the highest of a column, ties share the better
    rank.
    """
    ranks = stats.rankdata(-scores, method="min", axis=0).reshape(len(scores), -1, 2, 2)
    return ranks.mean(axis=(1, 3))


EXPERIMENT = Experiment(
    name="temperature",
    description=__doc__,
    flags=Temperature,
    plan=plan,
    exhibits=(
        Exhibit("Tables 1 and 4", select, table),
        Exhibit("Tables 1, 2 and 4, UAR", select_iemocap, against_paper, optional=True, printed=False),
        Exhibit(
            "Tables 1, 2 and 4, WA",
            select_iemocap,
            partial(against_paper, score="wa"),
            optional=True,
            printed=False,
        ),
    ),
)

if __name__ == "__main__":
    main(EXPERIMENT)
