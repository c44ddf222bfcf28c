"""Which utterances to label first: those that `pcl suggest` chooses, or utterances drawn at random.

    python -m experiments.active_labels --corpus emodb --root DIR --views mel egemaps

A draw holds out the speakers of one session for the test, and treats the utterances of all others that have a
target emotion as unlabelled. Labels are then bought in batches, each chosen by one strategy:

* random: drawn at random;
* typical: one typical utterance per cluster, at every number of labels;
* suggest: what `pcl suggest` does: typical while labels are few, later those between two classes.

After each batch a logistic regression is fitted on the standardised vectors of all views, and tested on the
held-out speakers. The command prints one Markdown table: UAR in %, mean over the draws and the half-width of
its 95 % t-interval; then each strategy minus random, paired by draw. The test is about the mean of the curve
alone: p of Wilcoxon's test of pairs, Holm-corrected over the strategies. Draws of one session share their
test speakers and are not independent.

Nothing is kept on disk but the features.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from experiments.experiment import run_command
from pcl_jax.commands import flags, session
from pcl_jax.runs.tables import Table

if TYPE_CHECKING:
    from pcl_jax.corpora.utterance import Corpus

STRATEGIES = ("random", "typical", "suggest")
"""Strategies, the one that the others are compared with first."""
PENALTY = 0.01
"""Penalty of the logistic regression, on vectors of squared norm about 1."""


@dataclass(frozen=True)
class ActiveLabels(flags.OnFeatures):
    """Label curves of suggested utterances against random ones."""

    views: flags.Views = ("mel", "egemaps")
    draws: int = 20
    """Draws; each is a held-out session and a seed of every choice."""
    batch: int = 10
    """Utterances that are labelled at once."""
    labels: int = 100
    """Labels at the end of a curve."""


class Pool(NamedTuple):
    """Utterances of a corpus that have a target emotion."""

    vectors: Mapping[str, np.ndarray]
    """View -> `[n, d]`."""
    labels: np.ndarray
    """Class of each utterance, `[n]`."""
    speakers: tuple[str, ...]
    sessions: np.ndarray
    """Session of each utterance, `[n]`."""
    classes: int

    def subset(self, rows: np.ndarray) -> "Pool":
        """Return some of the utterances."""
        vectors = {view: values[rows] for view, values in self.vectors.items()}
        speakers = tuple(self.speakers[row] for row in rows)
        return Pool(vectors, self.labels[rows], speakers, self.sessions[rows], self.classes)


def read_pool(command: ActiveLabels) -> "tuple[Corpus, Pool]":
    """Read a corpus, extract what is missing, and return the vectors of its labelled utterances."""
    from pcl_jax.data.vectors import pool_all

    views = session.choose_views(command, command.views)
    corpus = session.read_usable(command)
    stores = session.extract_features(command, views, corpus).stores
    utterances = [u for u in corpus.subset("target") if all(u.id in store for store in stores.values())]
    vectors = {view: pool_all(store[u.id] for u in utterances) for view, store in stores.items()}
    labels = np.array([corpus.label(u) for u in utterances])
    speakers, sessions = tuple(u.speaker for u in utterances), np.array([u.session for u in utterances])
    return corpus, Pool(vectors, labels, speakers, sessions, len(corpus.classes))


def curve(pool: Pool, strategy: str, draw: int, batch: int, most: int) -> list[float]:
    """Return the UAR after each batch of labels that a strategy chose.

    Args:
        pool: all utterances.
        strategy: one of `STRATEGIES`.
        draw: names the held-out session and every random choice.
        batch: utterances that are labelled at once.
        most: labels at the end.
    """
    from pcl_jax.evaluation.metrics import uar
    from pcl_jax.rng import seeded

    sessions = sorted(set(pool.sessions.tolist()))
    held_out = pool.sessions == sessions[draw % len(sessions)]
    known, test = pool.subset(np.flatnonzero(~held_out)), pool.subset(np.flatnonzero(held_out))
    order = seeded(draw, "random labels").permutation(len(known.labels))
    x, x_test = _points(known, known), _points(test, known)
    labels, scores = np.full(len(known.labels), -1), []
    predicted = None
    for bought in range(batch, most + 1, batch):
        if strategy == "random":
            rows = order[bought - batch : bought].tolist()
        else:
            rows = choose(known, strategy, labels, batch, predicted, draw)
        labels[rows] = known.labels[rows]
        predicted, tested = _predict(x, labels, x_test, pool.classes, most)
        scores.append(uar(test.labels, tested.argmax(axis=1), pool.classes))
    return scores


def choose(
    pool: Pool, strategy: str, labels: np.ndarray, count: int, predicted: np.ndarray | None, seed: int
) -> list[int]:
    """Return the rows that a strategy would label next."""
    from pcl_jax.training import suggest

    shown = predicted if strategy == "suggest" else None
    chosen = suggest.suggest(pool.vectors, pool.speakers, labels, count, log_probabilities=shown, seed=seed)
    return [suggestion.row for suggestion in chosen]


def _points(pool: Pool, known: Pool) -> np.ndarray:
    """Return the vectors of all views side by side, standardised by the utterances of known speakers."""
    scaled = []
    for view, values in pool.vectors.items():
        mean, scale = known.vectors[view].mean(axis=0), known.vectors[view].std(axis=0)
        scaled.append((values - mean) / np.maximum(scale, 1e-6) / np.sqrt(len(mean) * len(pool.vectors)))
    return np.concatenate(scaled, axis=1)


def _predict(
    x: np.ndarray, labels: np.ndarray, test: np.ndarray, classes: int, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a logistic regression on the labelled rows; return log-probabilities of all rows and of the test.

    The rows are padded to `most`, so that all fits are one compiled program.
    """
    import jax

    from pcl_jax.training import readout

    rows = np.flatnonzero(labels >= 0)
    padded = np.resize(rows, most)
    weights = (np.arange(most) < len(rows)).astype(np.float32)
    targets = np.eye(classes, dtype=np.float32)[labels[padded]]
    dual = jax.jit(readout.fit)(x[padded] @ x[padded].T, targets, weights, PENALTY)
    alpha, bias = np.asarray(dual.alpha), np.asarray(dual.bias)
    scores = (np.asarray(jax.nn.log_softmax(part @ x[padded].T @ alpha + bias)) for part in (x, test))
    return next(scores), next(scores)


def table(curves: Mapping[str, np.ndarray], batch: int) -> Table:
    """Return a line per number of labels, and one for the mean of the curve.

    Args:
        curves: strategy -> UAR `[draws, batches]`.
        batch: labels of a batch.
    """
    from pcl_jax.evaluation.significance import holm, t_interval, wilcoxon

    percent = {name: 100 * np.column_stack([found, found.mean(axis=1)]) for name, found in curves.items()}
    reference, *others = STRATEGIES
    last = percent[reference].shape[1] - 1
    p = holm([wilcoxon(percent[name][:, last], percent[reference][:, last]) for name in others])
    lines = []
    for column in range(last + 1):
        head = str(batch * (column + 1)) if column < last else "mean of the curve"
        cells = ["{:.1f} ± {:.1f}".format(*t_interval(percent[name][:, column])) for name in STRATEGIES]
        gains = []
        for name, value in zip(others, p, strict=True):
            gain = t_interval(percent[name][:, column] - percent[reference][:, column])
            test = f", p = {value:.3f}" if column == last else ""
            gains.append(f"{gain.mean:+.1f} ± {gain.half_width:.1f}{test}")
        lines.append((head, *cells, *gains))
    return Table(
        "UAR in % over the number of labels",
        ("labels", *STRATEGIES, *(f"{name} - {reference}" for name in others)),
        lines,
        "Mean over draws and the half-width of its 95 % t-interval; p: Wilcoxon's test of pairs, Holm.",
    )


def run(command: ActiveLabels) -> int:
    """Compute the label curves of all strategies, and print the table."""
    from pcl_jax.commands import terminal

    if not 0 < command.batch <= command.labels:
        raise session.UsageError(f"--batch {command.batch} must be 1 to --labels {command.labels}")
    if command.draws < 2:
        raise session.UsageError(f"--draws {command.draws}: an interval needs 2 or more")
    corpus, pool = read_pool(command)
    curves: dict[str, list[list[float]]] = {name: [] for name in STRATEGIES}
    with terminal.bar("label curves") as progress:
        for draw in range(command.draws):
            for name in STRATEGIES:
                curves[name].append(curve(pool, name, draw, command.batch, command.labels))
            progress(draw + 1, command.draws, f"UAR {curves['suggest'][-1][-1]:.1%}")
    found = {name: np.array(rows) for name, rows in curves.items()}
    count = f"{len(pool.labels)} utterances of {len(set(pool.speakers))} speakers"
    title = f"{corpus.name}: {count}; {', '.join(corpus.classes)}; views {', '.join(pool.vectors)}"
    terminal.out.print(title, markup=False, highlight=False)
    terminal.out.print(table(found, command.batch).markdown(), markup=False, highlight=False)
    return 0


def main() -> None:
    """Run the experiment with the flags of the command line, to the end of the process."""
    run_command(ActiveLabels, run, __doc__)


if __name__ == "__main__":
    main()
