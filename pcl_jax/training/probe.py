"""What a practitioner would try first: logistic regression on features or representations.

Standardised by the training fold's statistics; C is chosen on the validation session.
"""

import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from pcl_jax.arrays import Array
from pcl_jax.data.fold import FoldData
from pcl_jax.evaluation.metrics import uar

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Values of C tried; on a tie the strongest regularisation is kept."""


class Probed(NamedTuple):
    validation: Float[np.ndarray, "n c"]
    """Log-probabilities of the classes for the labelled validation utterances."""
    test: Float[np.ndarray, "m c"]


def pooled(data: FoldData, view: str) -> Float[np.ndarray, "n d"]:
    """One plain vector per utterance: the functionals as they are, mean and standard deviation over
    frames of a spectrogram, the mean over frames of a speech model's last state."""
    return np.stack([_pooled(features) for features in data.iterate_features(view)])


def _pooled(features: Float[np.ndarray, "..."]) -> Float[np.ndarray, " d"]:
    if features.ndim == 1:
        return features
    if features.ndim == 2:
        return np.concatenate([features.mean(axis=0), features.std(axis=0)])
    return features[:, -1].mean(axis=0, dtype=np.float32)


def probe(data: FoldData, vectors: Float[Array, "n d"], rows: Int[np.ndarray, " l"]) -> Probed:
    """Fit on the labelled `rows`, choose C by validation UAR, predict validation and test.

    `vectors` has one row per utterance of the fold; it is standardised by the training utterances,
    labelled or not.
    """
    train = np.asarray(vectors)[data.train]
    x = (np.asarray(vectors) - train.mean(axis=0)) / np.maximum(train.std(axis=0), 1e-6)
    validation, test = data.labelled(data.validation), data.labelled(data.test)
    classes = len(data.corpus.classes)
    best, kept = -1.0, None
    for strength in STRENGTHS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # 1,000 steps are a probe's budget
            model = LogisticRegression(C=strength, max_iter=1000).fit(x[rows], data.labels[rows])
        predicted = model.predict(x[validation])
        score = uar(data.labels[validation], predicted, classes)
        if score > best:
            best, kept = score, model
    assert kept is not None
    return Probed(*(_log_probabilities(kept, x[rows], classes) for rows in (validation, test)))


def _log_probabilities(
    model: LogisticRegression, x: Float[np.ndarray, "n d"], classes: int
) -> Float[np.ndarray, "n c"]:
    """Return log-probabilities of all classes; of one without a labelled utterance, minus infinity."""
    found = np.full((len(x), classes), -np.inf, np.float32)
    found[:, model.classes_] = model.predict_log_proba(x)
    return found
