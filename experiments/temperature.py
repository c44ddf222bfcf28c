"""Tables 1, 2 and 4: all labels, by temperature, encoders frozen and tuned, beside supervised training.

    python -m experiments.temperature --corpus emodb --root DIR

Paper (IEMOCAP, one run per fold): tau = 0.5 has the best average rank on the validation and on the test
session; tuned encoders beat frozen ones by 3 points (mel, eGeMAPS) to 8 (wav2vec 2.0); against supervised
training the best gain is 3 points, for eGeMAPS. Pre-trains each fold once per temperature, and fine-tunes
each view twice on it. `--temperatures 0.5` alone is Table 2. Finished runs are not repeated, so it can be
stopped and started at will.

Prints one Markdown table in the layout of Table 4: UAR and WA in % of the validation and the test session,
means over folds and repeats. A rank is 1 for the highest value of its column; the last two columns are the
means of the ranks in the columns of the validation and of the test session.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import tyro
from jaxtyping import Float
from scipy import stats

from pcl_jax import cli, config, flags

SCORES = ("validation_uar", "validation_wa", "uar", "wa")


@dataclass(frozen=True)
class Temperature(flags.OnFeatures):
    """All labels: which temperature, and is the encoder better frozen or tuned?"""

    views: flags.Views = ()
    folds: tuple[flags.Fold, ...] = (1, 2, 3, 4, 5)
    """Test sessions."""
    temperatures: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0)
    repeats: int = 1
    """Initialisations per fold."""
    pretraining: config.Pretraining = field(default_factory=config.Pretraining)
    finetuning: config.Finetuning = field(default_factory=config.Finetuning)
    table_only: flags.Switch = False
    """Run nothing; print the table of what there is."""


def main(command: Temperature) -> None:
    from pcl_jax import terminal
    from pcl_jax.training.runs import evaluate_all
    from pcl_jax.training.study import Task

    study = cli.open_study(command, command.views, "temperature")
    rows = []
    for fold in command.folds:
        for temperature in command.temperatures:
            pretraining = replace(study.settings.pretraining, temperature=temperature)
            at = replace(study, settings=replace(study.settings, pretraining=pretraining))
            run = at.pretraining_folder(fold) if command.table_only else cli.pretrain_fold(at, fold)
            tasks = [
                Task(fold, view, start, frozen, repeat=repeat)
                for repeat in range(command.repeats)
                for view in study.views
                for start, frozen in ((None, False), (run, False), (run, True))
            ]
            if command.table_only:
                done = study.done()
                rows += [done[name] for t in tasks if (name := study.relative(study.folder(t))) in done]
                continue
            with terminal.bar(f"fold {fold}, tau = {temperature:g}") as progress:
                for number, row in enumerate(evaluate_all(at, tasks), start=1):
                    rows.append(row)
                    progress(number, len(tasks), terminal.task_line(row))
    terminal.out.print("\n".join(table(rows, command.folds)), markup=False, highlight=False)


def table(rows: Sequence[dict], folds: Sequence[int]) -> Iterator[str]:
    """Markdown, as Table 4; a cell that lacks a fold is "not run", and there are no ranks until none is."""
    rows = list({row["run"]: row for row in rows}.values())  # supervised runs belong to each temperature
    views = sorted({row["title"] for row in rows})
    models = sorted({(row["temperature"] or 0.0, row["frozen"]) for row in rows})
    means = np.full((len(models), len(views) * len(SCORES)), np.nan)
    for m, (temperature, frozen) in enumerate(models):
        for v, view in enumerate(views):
            cell = [
                row
                for row in rows
                if (row["temperature"] or 0.0, row["frozen"], row["title"]) == (temperature, frozen, view)
            ]
            if {row["fold"] for row in cell} == set(folds):
                for s, score in enumerate(SCORES):
                    means[m, v * len(SCORES) + s] = 100 * np.mean([row[score] for row in cell])
    averages = average_ranks(means) if len(models) > 1 and np.isfinite(means).all() else None
    heads = [f"{view}, {what}" for view in views for what in ("val. UAR", "val. WA", "UAR", "WA")]
    yield "| method | tau | encoder | " + " | ".join([*heads, "rank, val.", "rank, test"]) + " |"
    yield "|---" * (3 + len(heads) + 2) + "|"
    for m, (temperature, frozen) in enumerate(models):
        name = ["Pairwise-CL", f"{temperature:g}", "frozen" if frozen else "tuned"]
        cells = [f"{value:.1f}" if np.isfinite(value) else "not run" for value in means[m]]
        ranks = ["not run"] * 2 if averages is None else [f"{rank:.2f}" for rank in averages[m]]
        yield f"| {' | '.join([*(name if temperature else ['supervised', '-', '-']), *cells, *ranks])} |"


def average_ranks(scores: Float[np.ndarray, "models columns"]) -> Float[np.ndarray, "models 2"]:
    """Mean rank over the columns of the validation session, and over those of the test session.

    Columns in the order of `SCORES` for each view; 1 is the highest of a column, ties share the better rank.
    """
    ranks = stats.rankdata(-scores, method="min", axis=0).reshape(len(scores), -1, 2, 2)
    return ranks.mean(axis=(1, 3))


if __name__ == "__main__":
    command = tyro.cli(Temperature, default=flags.default(Temperature, sys.argv[1:]), description=__doc__)
    cli.guarded(lambda: main(command), debug=command.debug)
