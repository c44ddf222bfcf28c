"""Runs of few labels: the vectors of a fold and the labels of a budget -> a classifier, its test, its record.

No label outside the budget is read: `budget` makes the labels that a method gets, and the true classes of the
test session meet the predictions in the scores alone. The validation session takes no part.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from pcl_jax.corpora.folds import labelled
from pcl_jax.corpora.utterance import Utterance
from pcl_jax.evaluation.calibration import brier, calibration_error
from pcl_jax.rng import seeded
from pcl_jax.runs import results
from pcl_jax.runs.ledger import Predictions
from pcl_jax.runs.spec import FewLabels
from pcl_jax.runs.workspace import Workspace
from pcl_jax.training import recipe
from pcl_jax.training.classifier import predict
from pcl_jax.training.pool import Pool
from pcl_jax.views.view import Kind

Vectors = Mapping[str, Float[np.ndarray, "n d"]]
"""View -> one row per utterance."""


class Material(NamedTuple):
    """Vectors that the runs of one fold and one set of views share."""

    train: Vectors
    """Vectors of the training sessions' utterances, labelled or not."""
    test: Vectors
    """Vectors of the test session's, labelled or not: a method may normalise by speaker."""
    kinds: Mapping[str, Kind]


def read(workspace: Workspace, spec: FewLabels, representations: Vectors) -> Material:
    """Read the vectors that a run trains and is tested on.

    Args:
        workspace: holds the features.
        spec: the run, or any with its fold and views.
        representations: view -> representations of the fold's utterances (training, validation, test) by a
            pre-trained encoder, which stand beside the plain vectors; none for plain vectors alone.
    """
    fold = workspace.loader.folds[spec.fold]
    train, test = (
        {view: workspace.loader.vectors(view, utterances) for view in spec.views}
        for utterances in (fold.train, fold.test)
    )
    for view, rows in representations.items():
        train[view] = beside(train[view], rows[: len(fold.train)])
        test[view] = beside(test[view], rows[len(rows) - len(fold.test) :])
    kinds: dict[str, Kind] = {view: workspace.views[view].kind for view in spec.views}
    return Material(Pool(train, _speakers(fold.train)), test, kinds)


def beside(plain: Float[np.ndarray, "n d"], learned: Float[np.ndarray, "n e"]) -> Float[np.ndarray, "n f"]:
    """Join two vectors such that both weigh about the same once every column is standardised.

    A standardised vector's squared norm is its number of columns, so the shorter one is repeated.
    """
    parts = [np.asarray(part, np.float32) for part in (plain, learned)]
    widest = max(part.shape[1] for part in parts)
    return np.concatenate([np.tile(part, (1, round(widest / part.shape[1]))) for part in parts], axis=1)


def budget(workspace: Workspace, spec: FewLabels) -> Int[np.ndarray, " n"]:
    """Return the class of each training utterance, -1 where it has none or none within the budget."""
    known = {u.id: workspace.corpus.label(u) for u in workspace.labelled(spec)}
    return np.array([known.get(u.id, -1) for u in workspace.loader.folds[spec.fold].train], int)


def run(workspace: Workspace, spec: FewLabels, material: Material) -> dict[str, Any]:
    """Train a method, save its predictions for the test session, and return what a record says of them."""
    fold, corpus = workspace.loader.folds[spec.fold], workspace.corpus
    labels = budget(workspace, spec)
    trained = recipe.METHODS[spec.method](
        material.train,
        labels,
        _speakers(fold.train),
        len(corpus.classes),
        kinds=material.kinds,
        seed=int(
            seeded(workspace.protocol.seed, "few labels", spec.fold, spec.labels.repeat).integers(2**31)
        ),
    )
    every = predict(trained, material.test, _speakers(fold.test))
    tested = labelled(fold.test, corpus)
    known = {u.id for u in tested}
    test = every[[u.id in known for u in fold.test]]
    workspace.ledger.save_predictions(
        spec, Predictions(tuple(corpus.classes), (), test[:0], tuple(u.id for u in tested), test)
    )
    truth = np.array([corpus.label(u) for u in tested], int)
    probabilities = np.exp(test.astype(np.float64))
    return results.test_scores(corpus, tested, test.argmax(axis=1)) | {
        "method": spec.name,
        "n_labelled": int((labels >= 0).sum()),
        "normalise": trained.normalise,
        "choice": {
            "weights": {view: float(weight) for view, weight in trained.weights.items()},
            "temperature": float(trained.temperature),
            **(trained.choice or {}),
        },
        "values": {
            "Brier": brier(probabilities, truth),
            "calibration error": calibration_error(probabilities, truth),
        },
    }


def _speakers(utterances: tuple[Utterance, ...]) -> list[str]:
    return [u.speaker for u in utterances]
