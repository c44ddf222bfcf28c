"""A classifier over the vectors of several views: readouts, their fusion, and normalisation by speaker."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from pcl_jax.models.fusion import fuse
from pcl_jax.models.readout import Readout, log_probabilities

Vectors = Mapping[str, Float[np.ndarray, "n d"]]
"""View -> one row per utterance (`pcl_jax.data.vectors.pool`)."""
Normalise = Literal["fold", "speaker"]

LEAST_TO_NORMALISE = 8
"""Utterances of a speaker below which `predict` does not normalise by speaker."""


@dataclass(frozen=True)
class Trained:
    """A classifier over the vectors of several views, and how it was chosen."""

    readouts: Mapping[str, Readout]
    """Readout of each view that takes part."""
    weights: Mapping[str, float]
    """Weight of each of these views in the fusion."""
    classes: int
    normalise: Normalise = "fold"
    """Whether vectors are first normalised within each speaker's utterances."""
    temperature: float = 1.0
    """Logits are divided by it; fitted on cross-validated predictions within the labels."""
    choice: Mapping[str, Any] | None = None
    """The choice and the findings of the cross-validation, as JSON types."""
    fallback: "Trained | None" = None
    """The classifier for utterances of unknown speakers, where this one normalises by speaker."""


def predict(
    trained: Trained, vectors: Vectors, speakers: Sequence[str] | None = None
) -> Float[np.ndarray, "n c"]:
    """Return log-probabilities of utterances.

    Args:
        trained: The classifier.
        vectors: View -> one row per utterance.
        speakers: Speaker of each utterance. A classifier that normalises by speaker needs all utterances of a
            speaker in one call; its `fallback` predicts those of speakers with fewer than
            `LEAST_TO_NORMALISE` utterances, and all where no speakers are given.
    """
    if trained.normalise == "speaker":
        assert trained.fallback is not None
        found = predict(trained.fallback, vectors)
        if speakers is None:
            return found
        enough = _utterances_of_speaker(speakers) >= LEAST_TO_NORMALISE
        if enough.any():
            names = np.asarray(speakers)[enough]
            normalised = {view: by_speaker(rows[enough], names.tolist()) for view, rows in vectors.items()}
            found[enough] = _predict(trained, normalised)
        return found
    return _predict(trained, vectors)


def _predict(trained: Trained, vectors: Vectors) -> Float[np.ndarray, "n c"]:
    views = list(trained.readouts)
    scores = jnp.stack([log_probabilities(trained.readouts[view], vectors[view]) for view in views])
    fused = fuse(scores, jnp.array([trained.weights[view] for view in views]))
    return np.array(jax.nn.log_softmax(fused / trained.temperature))


def _utterances_of_speaker(speakers: Sequence[str]) -> Int[np.ndarray, " n"]:
    _, which, counts = np.unique(np.asarray(speakers), return_inverse=True, return_counts=True)
    return counts[which]


def by_speaker(vectors: Float[np.ndarray, "n d"], speakers: Sequence[str]) -> Float[np.ndarray, "n d"]:
    """Return vectors with mean 0 and deviation 1 within each speaker's rows."""
    normalised, names = np.empty_like(vectors), np.asarray(speakers)
    for name in np.unique(names):
        mean, scale = moments(vectors[names == name])
        normalised[names == name] = (vectors[names == name] - mean) / scale
    return normalised


def moments(rows: Float[np.ndarray, "n d"]) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    """Return mean and deviation of the finite values of each column; the deviation of a constant is 1."""
    finite = np.isfinite(rows)
    count = np.maximum(finite.sum(axis=0), 1)
    mean = np.where(finite, rows, 0.0).sum(axis=0, dtype=np.float64) / count
    square = (np.where(finite, rows - mean, 0.0) ** 2).sum(axis=0) / count
    scale = np.sqrt(square)
    return mean, np.where(scale > 1e-6 * np.maximum(np.abs(mean), 1e-6), scale, 1.0)
