"""Rough times of work on a CPU, for the plan that a command shows first.

They say minutes or hours, no more: the rates are those of one machine (docs/performance.md), and early
stopping may end a run sooner.
"""

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pcl_jax.views.view import View

INFERENCE_S: Mapping[str, float] = {"frames": 3.5e-9, "states": 0.3e-9, "vector": 1e-7}
"""Seconds that two cores take to encode a byte of features of each kind, without gradients."""

PRETRAINING_COMPILE_S, COMPARISON_COMPILE_S = 20, 40
"""Seconds that two cores take to compile a pre-training of three views, and a comparison of fine-tunings.
Compiled programs are kept on disk: the next run takes a fifth of it."""
LEARNING_COMPILE_S = 20
"""Seconds that two cores take to compile the programs of `pcl learn`."""
FIT_S, FIT_PAIR_S = 0.3, 0.2e-6
"""Seconds that two cores take to fit the recipe to a view: those of any fit, those of each pair of clips."""
TRAINING = 3
"""Times of inference that a training step takes: forward, and backward twice."""


def epoch_s(views: "Iterable[View]", trained_s: float, validated_s: float) -> float:
    """Return the seconds of an epoch on this machine's CPUs.

    Args:
        views: Views that are encoded.
        trained_s: Speech that is trained on, in seconds.
        validated_s: Speech that is evaluated, in seconds.
    """
    rate = sum(INFERENCE_S[view.kind] * view.size(1.0) for view in views)
    cores = len(os.sched_getaffinity(0))
    return rate * (TRAINING * trained_s + validated_s) * 2 / cores


def fit_s(clips: int, views: int) -> float:
    """Return the seconds of a fit of the recipe on this machine's CPUs.

    Args:
        clips: Labelled and unlabelled clips that take part.
        views: Number of views.
    """
    cores = len(os.sched_getaffinity(0))
    return views * (FIT_S + FIT_PAIR_S * clips**2) * 2 / cores
