"""A sentence that reads the table of one fold: which differences are larger than chance.

Chance is that of the test utterances: had others of the same speakers been drawn, the scores would differ.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import ceil
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from pcl_jax.corpora.utterance import Corpus
from pcl_jax.evaluation.significance import Interval, paired_uar
from pcl_jax.runs.ledger import Ledger
from pcl_jax.runs.records import Row
from pcl_jax.runs.spec import Finetune, Spec
from pcl_jax.runs.summary import Amount, amount, group_rows, method_of

CONFIDENCE = 0.95
"""Coverage of the intervals of all comparisons with one number of labels, together."""


class Answers(NamedTuple):
    """A scored run: its record, and which of the fold's test utterances it classified rightly."""

    row: Row
    right: Bool[np.ndarray, " n"]


class Comparison(NamedTuple):
    """A pre-trained encoder against the same network from scratch, on the same labels."""

    name: str
    uar: Interval
    """Difference in UAR, and what chance alone can make of it."""


def read_answers(
    ledger: Ledger, specs: Iterable[Spec], corpus: Corpus
) -> tuple[list[Answers], Int[np.ndarray, " n"]]:
    """Return the answers of the finished fine-tunings of one fold, and the class of each test utterance."""
    labels = {u.id: corpus.label(u) for u in corpus.utterances}
    answers, truth = [], np.zeros(0, int)
    for spec in dict.fromkeys(specs):
        row = ledger.find(spec) if isinstance(spec, Finetune) else None
        if row is not None:
            predictions = ledger.predictions(spec)
            truth = np.array([labels[id] for id in predictions.test_ids])
            answers.append(Answers(row, predictions.test.argmax(axis=1) == truth))
    return answers, truth


def comparisons(answers: Sequence[Answers], truth: Int[np.ndarray, " n"]) -> dict[Amount, list[Comparison]]:
    """Return the comparisons of each number of labels whose runs are all there.

    Args:
        answers: Runs of one fold.
        truth: Class of each test utterance.
    """
    cells = group_rows((a.row for a in answers), lambda row: (amount(row), row["title"], method_of(row)))
    right = {a.row["run"]: a.right for a in answers}
    shares = {key: np.mean([right[row["run"]] for row in rows], axis=0) for key, rows in cells.items()}
    pairs: dict[Amount, dict[str, tuple]] = {}
    for (labelled, view, method), share in sorted(shares.items()):
        supervised = shares.get((labelled, view, "supervised"))
        if method in ("frozen", "tuned") and supervised is not None:
            pairs.setdefault(labelled, {})[f"{method} {view}"] = (share, supervised)
    return {
        labelled: [
            Comparison(name, paired_uar(truth, *pair, confidence=1 - (1 - CONFIDENCE) / len(named)))
            for name, pair in named.items()
        ]
        for labelled, named in pairs.items()
    }


def sentence(answers: Sequence[Answers], truth: Int[np.ndarray, " n"]) -> str:
    """Return a sentence for each number of labels, then what it rests on; empty without a comparison.

    One bound serves all comparisons of a number of labels, the widest: none that is under it counts.
    """
    found = comparisons(answers, truth)
    if not found:
        return ""
    labels: Mapping[Amount, int] = {amount(a.row): a.row["n_labelled"] for a in answers}
    parts = [_sentence(labels[labelled], group) for labelled, group in found.items()]
    basis = (
        f"(Chance: {CONFIDENCE:.0%} over the {len(truth)} labelled test utterances, paired, all comparisons "
        "with one number of labels together. Other labels, speakers and pre-trainings add to it.)"
    )
    return " ".join([*parts, basis])


def _sentence(labels: int, group: Sequence[Comparison]) -> str:
    widest = 100 * max(comparison.uar.half_width for comparison in group)
    if not np.isfinite(widest):
        return f"With {labels} labels, a class has too few test utterances to tell a difference from chance."
    bound = ceil(widest)
    differences = {name: 100 * uar.mean for name, uar in group}
    clear = {name: points for name, points in differences.items() if abs(points) > bound}
    listed = ", ".join(
        f"{name} {'gains' if points > 0 else 'loses'} {abs(points):.0f}" for name, points in clear.items()
    )
    rest = listed if len(clear) == len(group) else f"{listed}; all others are chance" if clear else "all are"
    beginning = f"With {labels} labels, differences from supervised training under {bound} points"
    return f"{beginning} are chance here: {rest}."
