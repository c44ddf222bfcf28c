"""Intervals: bootstrap over speakers of the UAR, because utterances of one voice are not independent."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.special import betaincinv

DRAWS = 2000


def uar_draws(
    truth: Int[np.ndarray, " n"],
    predictions: Sequence[Int[np.ndarray, " n"]],
    speakers: Sequence[str],
    num_classes: int,
    rng: np.random.Generator,
    draws: int = DRAWS,
) -> Float[np.ndarray, "k draws"]:
    """Draw speakers with replacement, then recalls given their utterances; return the UAR of each classifier.

    The recall of a class is drawn from its posterior under Jeffreys' prior, Beta(hits + 1/2, misses + 1/2):
    ten right of ten do not give an interval of no width. All classifiers share speakers and quantiles, so
    that their differences are paired.

    Args:
        truth: True classes of labelled utterances.
        predictions: Predicted classes of each classifier.
        speakers: The speaker of each utterance.
        num_classes: Number of classes.
        rng: Source of the draws.
        draws: Number of draws.
    """
    names, owners = np.unique(np.asarray(speakers), return_inverse=True)
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    totals = counts @ _per_speaker(owners, truth, np.ones(len(truth)), num_classes)
    quantiles = rng.uniform(size=totals.shape)
    result = []
    for found in predictions:
        hits = counts @ _per_speaker(owners, truth, np.asarray(found) == truth, num_classes)
        result.append(betaincinv(hits + 0.5, totals - hits + 0.5, quantiles).mean(axis=1))
    return np.stack(result)


def _per_speaker(
    owners: Int[np.ndarray, " n"], truth: Int[np.ndarray, " n"], values: np.ndarray, num_classes: int
) -> Float[np.ndarray, "speakers c"]:
    """Sum values by speaker and class."""
    sums = np.zeros((owners.max() + 1, num_classes))
    np.add.at(sums, (owners, truth), values)
    return sums
