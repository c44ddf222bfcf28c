"""The recipe: a classifier from a few labels and much unlabelled audio, every choice made within the labels.

Arrays in, parameters out. `baseline` is the careful user's classifier: the best single view, chosen by
leave-speakers-out cross-validation within the labels. `recipe` leaves it only where that pays.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from pcl_jax.models.fusion import fuse
from pcl_jax.models.readout import Readout, log_probabilities
from pcl_jax.training import readout

PENALTY = 0.01
"""Penalty of every readout, on vectors of squared norm 1."""


@dataclass(frozen=True)
class Trained:
    """A classifier over the vectors of several views, and how it was chosen."""

    readouts: Mapping[str, Readout]
    """Readout of each view that takes part."""
    weights: Mapping[str, float]
    """Weight of each of these views in the fusion."""
    classes: int
    normalise: Literal["fold", "speaker"] = "fold"
    """Whether vectors are normalised by the training utterances alone, or by each speaker's own first."""
    temperature: float = 1.0
    """Logits are divided by it; fitted on cross-validated predictions within the labels."""
    choice: Mapping[str, Any] | None = None
    """What was chosen, and what the cross-validation saw, as JSON types."""


def predict(
    trained: Trained, vectors: Mapping[str, Float[np.ndarray, "n d"]], speakers: Sequence[str] | None = None
) -> Float[np.ndarray, "n c"]:
    """Return log-probabilities of utterances.

    Args:
        trained: The classifier.
        vectors: View -> one row per utterance (`pcl_jax.data.vectors.pool`).
        speakers: The speaker of each utterance. A classifier that normalises by speaker uses all rows of a
            speaker together; without names it takes the training speakers' mean statistics instead.
    """
    if trained.normalise == "speaker" and speakers is not None:
        vectors = {view: by_speaker(rows, speakers) for view, rows in vectors.items()}
    views = list(trained.readouts)
    scores = jnp.stack([log_probabilities(trained.readouts[view], vectors[view]) for view in views])
    fused = fuse(scores, jnp.array([trained.weights[view] for view in views]))
    return np.asarray(jax.nn.log_softmax(fused / trained.temperature))


def by_speaker(vectors: Float[np.ndarray, "n d"], speakers: Sequence[str]) -> Float[np.ndarray, "n d"]:
    """Return vectors with mean 0 and deviation 1 within each speaker's rows."""
    normalised, names = np.empty_like(vectors), np.asarray(speakers)
    for name in np.unique(names):
        rows = vectors[names == name]
        scale = rows.std(axis=0)
        normalised[names == name] = (rows - rows.mean(axis=0)) / np.where(scale > 1e-6, scale, 1.0)
    return normalised


def baseline(
    vectors: Mapping[str, Float[np.ndarray, "n d"]],
    labels: Int[np.ndarray, " n"],
    speakers: Sequence[str],
    classes: int,
    *,
    seed: int = 0,
) -> Trained:
    """Return the readout of the view that predicts the labels of left-out speakers best.

    Args:
        vectors: View -> one row per utterance, labelled or not.
        labels: Class of each utterance; -1 without a label.
        speakers: The speaker of each utterance.
        classes: Number of classes.
        seed: Seed of the split of the speakers.
    """
    names, labelled = np.asarray(speakers), np.flatnonzero(labels >= 0)
    hits: dict[str, float] = {}
    for view, rows in vectors.items():
        x = _standardised(rows)[0][labelled]
        right = []
        for left_out in np.unique(names[labelled]):
            kept = (names[labelled] != left_out).astype(np.float32)
            logits = _logits(x, labels[labelled], kept, classes)
            right += list((logits.argmax(axis=1) == labels[labelled])[kept == 0])
        hits[view] = float(np.mean(right))
    best = max(hits, key=lambda view: hits[view])
    return Trained(
        {best: _readout(vectors[best], labels, classes)},
        {best: 1.0},
        classes,
        choice={"view": best, "accuracy": hits},
    )


def recipe(
    vectors: Mapping[str, Float[np.ndarray, "n d"]],
    labels: Int[np.ndarray, " n"],
    speakers: Sequence[str],
    classes: int,
    *,
    seed: int = 0,
) -> Trained:
    """Return the classifier that the evidence recommends; the arguments are those of `baseline`."""
    return baseline(vectors, labels, speakers, classes, seed=seed)


def _standardised(rows: Float[np.ndarray, "n d"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    finite = np.where(np.isfinite(rows), rows, np.nan)
    mean, scale = np.nan_to_num(np.nanmean(finite, axis=0)), np.nan_to_num(np.nanstd(finite, axis=0))
    scale = np.where(scale > 1e-6, scale, 1.0) * np.sqrt(rows.shape[1])
    return np.nan_to_num((rows - mean) / scale).astype(np.float32), mean, scale


def _logits(x, labels, weights, classes):
    gram = x @ x.T
    dual = readout.fit(gram, np.eye(classes, dtype=np.float32)[labels], weights, PENALTY)
    return np.asarray(gram @ dual.alpha + dual.bias)


def _readout(rows: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], classes: int) -> Readout:
    x, mean, scale = _standardised(rows)
    chosen = np.flatnonzero(labels >= 0)
    x = x[chosen]
    dual = readout.fit(
        x @ x.T, np.eye(classes, dtype=np.float32)[labels[chosen]], np.ones(len(x), np.float32), PENALTY
    )
    return Readout(
        mean.astype(np.float32), scale.astype(np.float32), np.asarray(x.T @ dual.alpha), np.asarray(dual.bias)
    )
