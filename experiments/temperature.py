"""Tables 1 and 4: all labels, by temperature, encoders frozen and tuned, beside supervised training.

    python -m experiments.temperature --corpus emodb --root DIR

Paper (IEMOCAP, one run per fold): tau = 0.5 has the best average rank on the validation and on the test
session; tuned encoders beat frozen ones by 3 points (mel, eGeMAPS) to 8 (wav2vec 2.0); against supervised
training the best gain is 3 points, for eGeMAPS. Pre-trains each fold once per temperature, and fine-tunes
each view twice on it. Finished runs are not repeated, so it can be stopped and started at will.

Prints one Markdown table in the layout of Table 4: UAR and WA in % of the validation and the test session,
means over folds and repeats. A rank is 1 for the highest value of its column; the last two columns are the
means of the ranks in the columns of the validation and of the test session.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import tyro
from jaxtyping import Float
from scipy import stats

from pcl_jax import cli
from pcl_jax.commands import flags
from pcl_jax.runs.summary import views
from pcl_jax.runs.tables import NOT_RUN, Table

if TYPE_CHECKING:
    from pcl_jax.runs.plan import Step
    from pcl_jax.runs.records import Row
    from pcl_jax.runs.study import Study

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
"""Of `PAPER`."""

SCORES = ("validation_uar", "validation_wa", "uar", "wa")


@dataclass(frozen=True)
class Temperature(flags.Experiment):
    """All labels: which temperature, and is the encoder better frozen or tuned?"""

    temperatures: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0)
    repeats: int = 1
    """Initialisations per fold."""


def main(command: Temperature) -> None:
    from pcl_jax.commands import terminal

    rows = cli.experiment(command, "temperature", lambda study: plan(study, command))
    terminal.out.print(table(rows).markdown(), markup=False, highlight=False)


def plan(study: "Study", command: Temperature) -> "Iterator[Step]":
    """All runs of Table 4; those of supervised training are the same for each temperature."""
    from pcl_jax.runs.plan import label_efficiency

    for temperature in command.temperatures:
        at = study.pretraining_with(temperature=temperature)
        yield from label_efficiency(at, command.folds, {1.0: command.repeats}, probes=False)


def table(rows: "Sequence[Row]") -> Table:
    """As Table 4; a cell that lacks a fold is "not run", and there are no ranks until none is."""
    titles, folds = views(rows), {row["fold"] for row in rows}
    models = sorted({(row["temperature"] or 0.0, row["frozen"]) for row in rows})
    means = np.full((len(models), len(titles) * len(SCORES)), np.nan)
    for m, (temperature, frozen) in enumerate(models):
        for v, view in enumerate(titles):
            cell = [
                row
                for row in rows
                if (row["temperature"] or 0.0, row["frozen"], row["title"]) == (temperature, frozen, view)
            ]
            if {row["fold"] for row in cell} == folds:
                for s, score in enumerate(SCORES):
                    means[m, v * len(SCORES) + s] = 100 * np.mean([row[score] for row in cell])
    averages = average_ranks(means) if len(models) > 1 and np.isfinite(means).all() else None
    lines = []
    for m, (temperature, frozen) in enumerate(models):
        name = ("Pairwise-CL", f"{temperature:g}", "frozen" if frozen else "tuned")
        cells = [f"{value:.1f}" if np.isfinite(value) else NOT_RUN for value in means[m]]
        ranks = [NOT_RUN] * 2 if averages is None else [f"{rank:.2f}" for rank in averages[m]]
        lines.append((*(name if temperature else ("supervised", "-", "-")), *cells, *ranks))
    heads = [f"{view}, {what}" for view in titles for what in ("val. UAR", "val. WA", "UAR", "WA")]
    return Table(
        "All labels, by temperature",
        ("method", "τ", "encoder", *heads, "rank, val.", "rank, test"),
        lines,
        "UAR and WA in %, means over folds. Ranks: 1 for the highest value of a column; means over the "
        "columns of the validation and of the test session.",
    )


def against_paper(rows: "Sequence[Row]") -> Table:
    """Test UAR of the paper, ours, and the difference: for IEMOCAP alone."""
    folds = {row["fold"] for row in rows}
    lines = []
    for (tau, frozen), of_paper in PAPER.items():
        cells = []
        for view, (_, _, theirs, _) in zip(VIEWS, of_paper, strict=True):
            cell = [
                row
                for row in rows
                if (row["temperature"] or 0.0, row["frozen"], row["view"]) == (tau, frozen, view)
            ]
            ours = None
            if cell and {row["fold"] for row in cell} == folds:
                ours = 100 * float(np.mean([row["uar"] for row in cell]))
            cells += [f"{theirs:.1f}", NOT_RUN, NOT_RUN]
            if ours is not None:
                cells[-2:] = [f"{ours:.1f}", f"{ours - theirs:+.1f}"]
        name = ("Pairwise-CL", f"{tau:g}", "frozen" if frozen else "tuned")
        lines.append((*(name if tau else ("supervised", "-", "-")), *cells))
    heads = [f"{view}, {what}" for view in VIEWS for what in ("paper", "ours", "difference")]
    return Table("Test UAR beside the paper's Table 4", ("method", "τ", "encoder", *heads), lines, "In %.")


def average_ranks(scores: Float[np.ndarray, "models columns"]) -> Float[np.ndarray, "models 2"]:
    """Mean rank over the columns of the validation session, and over those of the test session.

    Columns in the order of `SCORES` for each view; 1 is the highest of a column, ties share the better rank.
    """
    ranks = stats.rankdata(-scores, method="min", axis=0).reshape(len(scores), -1, 2, 2)
    return ranks.mean(axis=(1, 3))


if __name__ == "__main__":
    command = tyro.cli(Temperature, default=flags.default(Temperature, sys.argv[1:]), description=__doc__)
    cli.guarded(lambda: main(command), debug=command.debug)
