"""Cross-fitting: predictions for every labelled utterance by classifiers that never heard its speaker.

Neither labels nor audio of a left-out speaker are in the training of his or her fold, so the result says what
to expect of a new voice. Pure: arrays in, arrays out.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int

from pcl_jax.corpora.grouping import group_speakers
from pcl_jax.rng import seeded
from pcl_jax.training.classifier import Trained, predict

Vectors: TypeAlias = Mapping[str, np.ndarray]
"""View -> one row per utterance, `[n, d]`."""
Fit: TypeAlias = Callable[..., Trained]
"""Method of `pcl_jax.training.recipe`, its `kinds` given."""
FOLDS = 5
_LEAST = np.log(1e-6)
"""Log-probability of a class that the training of a fold lacks: temperatures need finite numbers."""


def assign_folds(labels: Int[np.ndarray, " n"], speakers: Sequence[str]) -> Int[np.ndarray, " n"]:
    """Return the fold of each utterance: at most five groups of speakers with about as many labels each.

    Args:
        labels: Class of each utterance; -1 without a label.
        speakers: The speaker of each utterance.

    Returns:
        Number of the fold that tests the utterance. A speaker without labels is in no fold, -1, so that his
        or her audio is in every training. Labels of a single speaker are dealt out utterance by utterance.
    """
    names = np.asarray(speakers)
    labelled = labels >= 0
    counts = {str(name): int((names[labelled] == name).sum()) for name in np.unique(names[labelled])}
    folds = np.full(len(labels), -1)
    if len(counts) > 1:
        groups = group_speakers(counts)
        used = sorted(set(groups.values()))
        for name, group in groups.items():
            folds[names == name] = used.index(group)
        return folds
    rows = np.flatnonzero(labelled)
    rows = rows[np.argsort(labels[rows], kind="stable")]
    folds[rows] = np.arange(len(rows)) % FOLDS
    return folds


def classes_with_test(
    labels: Int[np.ndarray, " n"], folds: Int[np.ndarray, " n"], classes: int
) -> Bool[np.ndarray, " c"]:
    """Return for each class whether it can be tested: its labels are in two folds or more."""
    return np.array([len(np.unique(folds[labels == number])) > 1 for number in range(classes)])


def cross_fit(
    fit: Fit,
    vectors: Vectors,
    labels: Int[np.ndarray, " n"],
    speakers: Sequence[str],
    classes: int,
    folds: Int[np.ndarray, " n"],
    *,
    known: Bool[np.ndarray, " n"] | None = None,
    seed: int = 0,
    do: Callable[[str, Callable[[], np.ndarray]], np.ndarray] = lambda _, step: step(),
) -> Float[np.ndarray, "n c"]:
    """Predict every labelled utterance by a classifier fitted on the other folds.

    Args:
        fit: The method.
        vectors: View -> `[n, d]`.
        labels: Class of each utterance; -1 without a label.
        speakers: The speaker of each utterance.
        classes: Number of classes.
        folds: See `assign_folds`.
        known: Labels that training may use; None: all. Every label is predicted.
        seed: Names every random draw.
        do: Called as `do("3", step)` for fold 3; may return what an earlier call of the step returned.

    Returns:
        Log-probabilities, finite in labelled rows, zero in others.
    """
    found = np.zeros((len(labels), classes))
    train_labels = labels if known is None else np.where(known, labels, -1)
    for fold in np.unique(folds[folds >= 0]):
        held_out = folds == fold

        def predict_fold(held_out: Any = held_out) -> np.ndarray:
            return _predict_held_out(fit, vectors, train_labels, speakers, classes, held_out, seed)

        found[held_out] = do(str(fold), predict_fold)
    return np.where(labels[:, None] >= 0, np.maximum(found, _LEAST), 0.0)


def _predict_held_out(
    fit: Fit,
    vectors: Vectors,
    labels: Int[np.ndarray, " n"],
    speakers: Sequence[str],
    classes: int,
    held_out: Bool[np.ndarray, " n"],
    seed: int,
) -> Float[np.ndarray, "m c"]:
    """Fit on the other rows and predict the held-out ones, together: their speakers may normalise them."""
    names = np.asarray(speakers)
    rest = ~held_out
    present = np.unique(labels[rest & (labels >= 0)])
    if len(present) < 2:  # nothing to tell apart: every utterance gets the only class, or none
        scores = np.full((int(held_out.sum()), classes), _LEAST)
        scores[:, present] = 0.0
        return scores
    trained = fit(
        {view: rows[rest] for view, rows in vectors.items()},
        labels[rest],
        list(names[rest]),
        classes,
        seed=seed,
    )
    ours = {view: rows[held_out] for view, rows in vectors.items()}
    return np.asarray(predict(trained, ours, list(names[held_out])), np.float64)


def label_subset(
    labels: Int[np.ndarray, " n"], fraction: float, draw: int, seed: int
) -> Bool[np.ndarray, " n"]:
    """Draw a share of the labels of each class, at least one; a larger share contains a smaller one."""
    rng = seeded(seed, "label curve", draw)
    kept = np.zeros(len(labels), bool)
    for number in np.unique(labels[labels >= 0]):
        rows = np.flatnonzero(labels == number)
        kept[rng.permutation(rows)[: max(1, round(fraction * len(rows)))]] = True
    return kept
