"""Co-training: each view learns from the pseudo-labels that the other views give to unlabelled utterances.

Blum and Mitchell (1998) and Nigam and Ghani (2000) for text; Zhang et al. (2015) for speech emotion. The
deviations from these are three. A view is taught only by views that are about as competent (`teachers`),
because a strong view loses by weak teachers. Pseudo-labels never outweigh the labels. And all rounds start
from the labels, so that early mistakes are not kept. Pure: arrays in, arrays out.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from pcl_jax.arrays import Array
from pcl_jax.training import readout
from pcl_jax.training.readout import EXACT, ROUGH, Dual, Steps

UNLABELLED, UNUSED = -1, -2
"""Labels of an utterance that may get a pseudo-label, and of one that takes no part (padding, left out)."""

SHARES = (0.2, 0.4, 0.6)
"""Share of the unlabelled utterances that gets pseudo-labels in each round. The rest never gets any: a pool
holds other emotions, and six rounds up to 0.8 were 1 to 4 points worse on EMO-DB."""
PENALTY = 0.01
"""Penalty of every readout, on vectors of squared norm 1. Results hardly move from 0.001 to 0.1."""
COMPARABLE = 0.8
"""A view is taught by views whose weight is at least this share of its own. Every view is taught while labels
say no more than the prior."""


def teachers(weights: Float[Array, " k"]) -> Float[np.ndarray, "k k"]:
    """Return the weight of each teacher (column) of each view (row); a row of zeros is not taught.

    Args:
        weights: Log-odds of each view's accuracy (`competence.log_odds`).

    Example:
        >>> teachers(np.array([1.0, 0.9, 0.2])).tolist()
        [[0.0, 0.9, 0.0], [1.0, 0.0, 0.0], [1.0, 0.9, 0.0]]
    """
    weights = np.asarray(weights, float)
    allowed = (weights[None] >= COMPARABLE * weights[:, None]) & ~np.eye(len(weights), dtype=bool)
    return np.where(allowed, weights[None], 0.0)


@partial(jax.jit, static_argnames=("shares", "last"))
def co_train(
    grams: Float[Array, "k n n"],
    labels: Int[Array, " n"],
    teachers: Float[Array, "k k"],
    start: Dual,
    *,
    shares: tuple[float, ...] = SHARES,
    last: Steps = EXACT,
) -> Dual:
    """Train the readouts of all views together; `jax.vmap` over labels and start runs many sets in step.

    Args:
        grams: Inner products of the utterances in each view.
        labels: Class of each labelled utterance, `UNLABELLED` or `UNUSED` for others.
        teachers: Weight of each teacher (column) of each view (row), see `teachers`.
        start: Readout of each view, fitted on the labels alone.
        shares: Share of the unlabelled utterances in each round.
        last: Work of the last round's fit.

    Returns:
        The readout of each view, `[k, n, c]` and `[k, c]`.
    """
    classes = start.alpha.shape[-1]
    known = (labels >= 0).astype(grams.dtype)
    targets = jax.nn.one_hot(labels, classes, dtype=grams.dtype)
    taught = teachers.sum(axis=1) > 0
    fit = jax.vmap(readout.fit, in_axes=(0, 0, 0, None, None, 0))
    dual = start
    for number, share in enumerate(shares, start=1):
        posteriors = jax.nn.log_softmax(readout.logits(dual, grams))
        advice = jax.nn.log_softmax(jnp.einsum("kj,jnc->knc", teachers, posteriors))
        chosen = jax.vmap(select, in_axes=(0, None, None))(advice, labels == UNLABELLED, share)
        # The labels' total weight bounds that of the pseudo-labels.
        weight = jnp.minimum(1.0, known.sum() / jnp.maximum(chosen.sum(axis=(1, 2)), 1.0))
        row_weights = known[None] + weight[:, None] * chosen.sum(axis=2)
        steps = last if number == len(shares) else ROUGH
        dual = fit(grams, targets[None] + chosen, row_weights, PENALTY, steps, dual)
    return jax.tree.map(lambda new, old: jax.vmap(jnp.where)(taught, new, old), dual, start)


def select(advice: Float[Array, "n c"], free: Array, share: float | Float[Array, ""]) -> Float[Array, "n c"]:
    """Return one-hot pseudo-labels of the most confident utterances, as many of each class; zero elsewhere.

    Args:
        advice: Log-probabilities by the teachers.
        free: Whether each utterance may get a pseudo-label.
        share: Share of the free utterances that get one, divided evenly among the classes; a class that is
            predicted less often gets fewer.

    Example:
        >>> advice = jnp.log(jnp.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]]))
        >>> select(advice, jnp.array([True, True, True, True]), 0.5).tolist()
        [[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    """
    classes = advice.shape[1]
    predicted = jax.nn.one_hot(advice.argmax(axis=1), classes, dtype=bool) & free[:, None]
    confidence = jnp.where(predicted, advice, -jnp.inf)
    rank = jnp.argsort(jnp.argsort(-confidence, axis=0), axis=0)
    count = jnp.maximum(jnp.round(share * free.sum() / classes), 1)
    return (predicted & (rank < count)).astype(advice.dtype)
