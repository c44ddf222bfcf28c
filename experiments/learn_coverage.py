"""Whether what `pcl learn` says of itself holds for speakers that it has never heard.

    python -m experiments.learn_coverage --corpus emodb --root DIR --json coverage.json

A draw holds out the speakers of one session. Some labels are drawn at random among the other speakers, whose
other clips are unlabelled. Then `pcl learn` does its work: it cross-validates within the labels, refits on
all of them and writes a model folder. The folder is loaded again and predicts all clips of the held-out
speakers, as `pcl predict --speaker` would. The draw records

* whether the 95 % interval of the report covers the UAR of the held-out speakers;
* the held-out UAR of the refitted model, and the mean of the models of the cross-validation's folds;
* the calibration error of the held-out probabilities;
* the seconds of learning, without reading the vectors.

The label curve, two thirds of the time of `pcl learn`, is left out: no other number depends on it.

The command prints one Markdown table. Sessions take turns, so draws of one session share their test speakers
and are not independent. Nothing is kept on disk but the vectors and the JSON file.
"""

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from experiments.experiment import run_command
from pcl_jax.commands import flags, session
from pcl_jax.runs.tables import Table

if TYPE_CHECKING:
    from pcl_jax.learn.evaluation import Data
    from pcl_jax.training.classifier import Trained
    from pcl_jax.views.view import View


@dataclass(frozen=True)
class LearnCoverage(flags.OnAudio):
    """The intervals, the models and the calibration of `pcl learn` against held-out speakers."""

    views: flags.Views = ()
    draws: int = 20
    """Draws; each is a held-out session and a choice of labels."""
    labels: int = 100
    """Labels of a draw."""
    json: Path | None = None
    """File for the numbers of every draw, written after each."""


class Draw(NamedTuple):
    """The report of one learning beside what held-out speakers show; all UARs are 0 to 1."""

    session: int
    """Session whose speakers are held out."""
    uar: float
    """UAR that the report expects."""
    low: float
    high: float
    held_out: float
    """UAR of the refitted model on the held-out speakers."""
    folds: float
    """Mean UAR of the models of the folds on the held-out speakers."""
    expected_calibration_error: float
    calibration_error: float
    """Calibration error on the held-out speakers."""
    seconds: float

    @property
    def covered(self) -> bool:
        """Whether the interval holds the UAR of the held-out speakers."""
        return self.low <= self.held_out <= self.high


class Predictions(NamedTuple):
    """Predictions for the labelled clips of held-out speakers."""

    truth: np.ndarray
    probabilities: np.ndarray
    """`[n, c]`."""


def learn_once(
    data: "Data", sessions: np.ndarray, views: "Mapping[str, View]", number: int, labels: int, seed: int
) -> tuple[Draw, Predictions]:
    """Hold out a session, learn from some labels of the others, and test.

    Args:
        data: The whole corpus; its labels outside of the draw are only used for the test.
        sessions: Session of each utterance, `[n]`.
        views: Views that the vectors are of.
        number: Number of the draw, which names the held-out session and every random choice.
        labels: Labels to draw.
        seed: Names every random choice too.

    Raises:
        UsageError: The labels are too few for an estimate.
    """
    from pcl_jax.evaluation.calibration import calibration_error
    from pcl_jax.evaluation.metrics import uar
    from pcl_jax.inference.model_folder import load_model
    from pcl_jax.learn import learning
    from pcl_jax.training import recipe
    from pcl_jax.training.classifier import predict

    names = sorted(set(sessions.tolist()))
    held_out = names[number % len(names)]
    test = subset(data, sessions == held_out)
    known = draw_labels(subset(data, sessions != held_out), labels, seed, number)
    models: list[Trained] = []

    def method(*arguments, **options) -> "Trained":
        """Fit the recipe, and keep the model."""
        models.append(recipe.recipe(*arguments, **options))
        return models[-1]

    with tempfile.TemporaryDirectory() as place:
        began = time.perf_counter()
        report = learning.learn(known, views, Path(place) / "model", seed=seed, method=method, curve=False)
        seconds = time.perf_counter() - began
        model = load_model(Path(place) / "model")
    if report["uar"] is None:
        raise session.UsageError(f"--labels {labels}: draw {number} has a class that cannot be tested")
    rows, speakers, classes = test.labelled, list(test.speakers), len(data.classes)
    truth = test.labels[rows]
    probabilities = np.exp(model.log_probabilities(test.vectors, speakers))[rows]
    by_fold = [predict(fold, test.vectors, speakers)[rows].argmax(axis=1) for fold in models[:-1]]
    found = Draw(
        session=held_out,
        uar=report["uar"],
        low=report["low"],
        high=report["high"],
        held_out=uar(truth, probabilities.argmax(axis=1), classes),
        folds=float(np.mean([uar(truth, predicted, classes) for predicted in by_fold])),
        expected_calibration_error=report["calibration"]["error"],
        calibration_error=calibration_error(probabilities, truth),
        seconds=seconds,
    )
    return found, Predictions(truth, probabilities)


def subset(data: "Data", rows: np.ndarray) -> "Data":
    """Return some of the utterances; `rows` are booleans, `[n]`."""
    return replace(
        data,
        vectors={view: values[rows] for view, values in data.vectors.items()},
        labels=data.labels[rows],
        speakers=[speaker for speaker, kept in zip(data.speakers, rows, strict=True) if kept],
    )


def draw_labels(data: "Data", count: int, seed: int, number: int) -> "Data":
    """Return the data with so many of its labels, drawn at random."""
    from pcl_jax.rng import seeded

    labelled = np.flatnonzero(data.labelled)
    if count > len(labelled):
        raise session.UsageError(f"--labels {count}: draw {number} has {len(labelled)} clips to label")
    kept = seeded(seed, "learn coverage", number).permutation(labelled)[:count]
    labels = np.full_like(data.labels, -1)
    labels[kept] = data.labels[kept]
    return replace(data, labels=labels)


def summarise(draws: Sequence[Draw], predictions: Sequence[Predictions]) -> dict[str, float]:
    """Return the numbers over all draws: what is covered, and the calibration error of all predictions."""
    from pcl_jax.evaluation.calibration import calibration_error

    truth, probabilities = (np.concatenate(part) for part in zip(*predictions, strict=True))
    return {
        "covered": sum(draw.covered for draw in draws),
        "draws": len(draws),
        "pooled_calibration_error": calibration_error(probabilities, truth),
    }


def table(draws: Sequence[Draw], summary: Mapping[str, float]) -> Table:
    """Return a line per quantity: its mean over the draws, the lowest and the highest."""
    from pcl_jax.evaluation.significance import t_interval

    def row(name: str, values: Sequence[float], form: str) -> tuple[str, ...]:
        mean, half_width = t_interval(values)
        return (
            name,
            f"{mean:{form}} ± {half_width:{form.lstrip('+')}}",
            *(f"{f(values):{form}}" for f in (min, max)),
        )

    rows = [
        row("UAR in %, expected by the report", [100 * draw.uar for draw in draws], ".1f"),
        row("width of its 95 % interval, points", [100 * (draw.high - draw.low) for draw in draws], ".1f"),
        row("UAR in %, held-out speakers, refitted model", [100 * draw.held_out for draw in draws], ".1f"),
        row("the same, mean of the folds' models", [100 * draw.folds for draw in draws], ".1f"),
        row("refitted - folds, points", [100 * (draw.held_out - draw.folds) for draw in draws], "+.1f"),
        row("calibration error, expected", [draw.expected_calibration_error for draw in draws], ".3f"),
        row("calibration error, held-out speakers", [draw.calibration_error for draw in draws], ".3f"),
        row("seconds of learning, without the label curve", [draw.seconds for draw in draws], ".0f"),
    ]  # fmt: skip
    return Table(
        f"{summary['covered']} of {summary['draws']} intervals cover the UAR of the held-out speakers",
        ("quantity", "mean", "lowest", "highest"),
        rows,
        "Mean over draws and the half-width of its 95 % t-interval. Calibration error of the held-out "
        f"predictions of all draws together: {summary['pooled_calibration_error']:.3f}.",
    )


def run(command: LearnCoverage) -> int:
    """Learn and test in every draw, and print the table."""
    from pcl_jax.commands import terminal
    from pcl_jax.commands.learn import extract_vectors
    from pcl_jax.learn import learning
    from pcl_jax.runs.files import write_atomically

    if command.draws < 2:
        raise session.UsageError(f"--draws {command.draws}: an interval needs 2 or more")
    if command.labels < 2:
        raise session.UsageError(f"--labels {command.labels}: give 2 or more")
    views = session.choose_views(command, command.views)
    corpus, stores = extract_vectors(command, views, session.read_usable(command))
    data = learning.data_of(corpus, stores, views)
    sessions = np.array([u.session for u in corpus.utterances])
    draws: list[Draw] = []
    predictions: list[Predictions] = []
    with terminal.bar("learn") as progress:
        for number in range(command.draws):
            found, predicted = learn_once(data, sessions, views, number, command.labels, command.seed)
            draws.append(found)
            predictions.append(predicted)
            if command.json is not None:
                content = {"corpus": corpus.name, "seed": command.seed, "labels": command.labels}
                content |= summarise(draws, predictions)
                content["by_draw"] = [draw._asdict() for draw in draws]
                write_atomically(command.json, (json.dumps(content, indent=1) + "\n").encode())
            progress(number + 1, command.draws, f"covered {sum(draw.covered for draw in draws)}")
    speakers = len(set(data.speakers))
    title = f"{corpus.name}: {len(data.labels)} clips of {speakers} speakers; {', '.join(corpus.classes)}"
    found = table(draws, summarise(draws, predictions))
    for text in (title, f"{found.title}.", found.markdown(), found.note):
        terminal.out.print(text, markup=False, highlight=False)
    return 0


def main() -> None:
    """Run the experiment with the flags of the command line, to the end of the process."""
    run_command(LearnCoverage, run, __doc__)


if __name__ == "__main__":
    main()
