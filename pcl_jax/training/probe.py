"""Probe: logistic regression on pooled features or on representations.

They are standardised by the statistics of the training utterances; C is chosen on the validation session.
"""

import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from pcl_jax.arrays import Array
from pcl_jax.data.fold import FoldData
from pcl_jax.evaluation.metrics import uar

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""The values of C to choose from; on a tie the strongest regularisation wins."""


class Probed(NamedTuple):
    """The predictions of a probe; -inf for a class that its labelled utterances lack."""

    validation: Float[np.ndarray, "n c"]
    """Log-probabilities of the labelled validation utterances; the prediction is the largest."""
    test: Float[np.ndarray, "m c"]
    """Log-probabilities of the labelled test utterances."""


def pool_features(data: FoldData, view: str) -> Float[np.ndarray, "n d"]:
    """Return one plain vector per utterance of a fold.

    Functionals stay as they are; a spectrogram gives the mean and standard deviation over its frames, hidden
    states the mean of the last state over its frames.
    """
    return np.stack([_pool(features) for features in data.iterate_features(view)])


def _pool(features: Float[np.ndarray, "..."]) -> Float[np.ndarray, " d"]:
    if features.ndim == 1:
        return features
    if features.ndim == 2:
        return np.concatenate([features.mean(axis=0), features.std(axis=0)])
    return features[:, -1].mean(axis=0, dtype=np.float32)


def probe(data: FoldData, vectors: Float[Array, "n d"], rows: Int[np.ndarray, " l"]) -> Probed:
    """Fit a logistic regression on labelled rows, choose C by validation UAR, predict validation and test.

    Args:
        data: The labels of the fold.
        vectors: One row per utterance of the fold; standardised by the training utterances, labelled or not.
        rows: The labelled training utterances.
    """
    train = np.asarray(vectors)[data.train]
    x = (np.asarray(vectors) - train.mean(axis=0)) / np.maximum(train.std(axis=0), 1e-6)
    validation, test = data.labelled(data.validation), data.labelled(data.test)
    classes = len(data.corpus.classes)
    best, kept = -1.0, None
    for strength in STRENGTHS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # 1,000 steps are the budget of a probe
            model = LogisticRegression(C=strength, max_iter=1000).fit(x[rows], data.labels[rows])
        predicted = _log_probabilities(model, x[validation], classes)
        score = uar(data.labels[validation], predicted.argmax(axis=-1), classes)
        if score > best:
            best, kept = score, Probed(predicted, _log_probabilities(model, x[test], classes))
    assert kept is not None
    return kept


def _log_probabilities(
    model: LogisticRegression, x: Float[np.ndarray, "n d"], classes: int
) -> Float[np.ndarray, "n c"]:
    """Return log-probabilities in float64 whose largest is what `model.predict` says.

    `predict_log_proba` keeps the float32 of `x`, in which two scores can become one probability.
    """
    scores = model.decision_function(x).astype(np.float64)
    if scores.ndim == 1:  # two classes: the log-odds of the second
        scores = np.stack([np.zeros_like(scores), scores], axis=1)
    found = np.full((len(x), classes), -np.inf)
    found[:, model.classes_] = log_softmax(scores, axis=1)
    return found
