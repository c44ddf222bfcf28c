"""Competence of views: what a few labels, and a prior, say about the accuracy of each view's readout."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats
from scipy.special import log_softmax

from pcl_jax.training import readout
from pcl_jax.training.co_training import PENALTY
from pcl_jax.training.readout import Dual

STRENGTH = 16.0
"""The prior counts as this many utterances. With 4 the views' hits on 8 labels mislead who teaches whom (-6
points on EMO-DB at 5 %); with 32 a dominant view is found too late."""
PRIOR_SKILL = {"states": 0.4, "vector": 1 / 3, "frames": 1 / 3}
"""Prior mean of the accuracy beyond chance, as a share of what is possible, by the kind of a view. Speech
models are usually the best view of acted speech, and can be the worst of natural speech. So the preference is
slight."""

GROUPS = 5
"""Largest number of parts into which labelled speakers are divided for cross-validation."""


class Competence(NamedTuple):
    """Posterior of each view's accuracy."""

    accuracy: Float[np.ndarray, " k"]
    """Posterior mean."""
    best: Float[np.ndarray, " k"]
    """Probability that the view is the most accurate one."""


def speaker_groups(speakers: Sequence[str], most: int = GROUPS) -> Int[np.ndarray, " n"]:
    """Return the part of each utterance: speakers, those with most utterances first, dealt to the smallest.

    >>> speaker_groups(["ann", "bob", "ann", "cem"], most=2).tolist()
    [0, 1, 0, 1]
    """
    names, which, counts = np.unique(np.asarray(speakers), return_inverse=True, return_counts=True)
    part, sizes = np.zeros(len(names), int), np.zeros(min(most, len(names)), int)
    for speaker in np.argsort(-counts, kind="stable"):
        part[speaker] = sizes.argmin()
        sizes[part[speaker]] += counts[speaker]
    return part[which]


def counted(labels: Int[np.ndarray, " l"], groups: Int[np.ndarray, " l"]) -> Bool[np.ndarray, " l"]:
    """Return whether each utterance can be predicted from the other groups: whether these hold its class."""
    same_class = labels[:, None] == labels[None]
    return (same_class & (groups[:, None] != groups[None])).any(axis=1)


def cross_validate(
    grams: Float[np.ndarray, "k l l"],
    labels: Int[np.ndarray, " l"],
    groups: Int[np.ndarray, " l"],
    classes: int,
) -> tuple[Dual, Float[np.ndarray, "k l c"]]:
    """Fit readouts on all labelled utterances but those of each group, and last on all.

    Returns:
        The readouts, `[k, g + 1, l, c]`, and each utterance's log-probabilities by those fitted on the other
        groups.
    """
    kept = (groups[None] != np.arange(GROUPS + 1)[:, None]).astype(np.float32)
    duals = readout.fit_all(grams, labels, kept, classes, PENALTY)
    logits = readout.logits(duals, grams[:, None])
    return duals, log_softmax(logits[:, groups, np.arange(len(labels))], axis=-1)


def competence(hits: Int[np.ndarray, " k"], count: int, kinds: Sequence[str], classes: int) -> Competence:
    """Return the posterior of each view's accuracy from cross-validation within the labels.

    The prior is a Beta distribution of strength `STRENGTH` around `PRIOR_SKILL` between chance and 1; views
    count as independent. Agreement of views on unlabelled utterances is not used: two weak views agree.

    Args:
        hits: Number of utterances that each view's readouts predicted.
        count: Number of utterances that were predicted, right or wrong.
        kinds: Kind of each view.
        classes: Number of classes.
    """
    mean = np.array([1 / classes + (1 - 1 / classes) * PRIOR_SKILL[kind] for kind in kinds])
    right, wrong = STRENGTH * mean + hits, STRENGTH * (1 - mean) + count - hits
    grid = np.linspace(0, 1, 2001)[:, None]
    density, below = stats.beta.pdf(grid, right, wrong), stats.beta.cdf(grid, right, wrong)
    best = np.array(
        [(density[:, view] * np.delete(below, view, axis=1).prod(axis=1)).sum() for view in range(len(mean))]
    )
    return Competence(right / (right + wrong), best / best.sum())


def log_odds(accuracy: Float[np.ndarray, " k"], classes: int) -> Float[np.ndarray, " k"]:
    """Return log-odds against chance, at least a small positive number: the weight of a vote."""
    bounded = np.clip(accuracy, 1 / classes + 0.03, 0.97)
    return np.log(bounded * (classes - 1) / (1 - bounded))
