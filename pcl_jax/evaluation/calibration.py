"""Calibration: whether a confidence of 70 % is right in 70 % of the cases; a temperature that mends it."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

TEMPERATURES = (0.1, 10.0)
"""Range of the fitted temperature."""
PRIOR_DEVIATION = 0.5
"""Standard deviation of log temperature before any label is seen: ten right of ten are no certainty."""
FEWEST_IN_A_BIN = 20


def calibration_error(probabilities: Float[np.ndarray, "n c"], truth: Int[np.ndarray, " n"]) -> float:
    """Compute the expected calibration error of the most probable class (Guo et al. 2017).

    Bins hold equal numbers of utterances, about 20 or more, at most ten bins: bins of equal width would hold
    one or two each where labels are few, and the error would measure their noise.

    Args:
        probabilities: Probability of each class.
        truth: True classes.

    Returns:
        The mean over bins of the distance between accuracy and mean confidence, 0 to 1; NaN without
        utterances.

    Example:
        >>> calibration_error(np.array([[0.8, 0.2]] * 10), np.array([0] * 8 + [1] * 2))
        0.0
    """
    if not len(truth):
        return float("nan")
    confidence = probabilities.max(axis=1)
    right = (probabilities.argmax(axis=1) == truth).astype(float)
    order = np.argsort(confidence, kind="stable")
    bins = np.array_split(order, int(np.clip(len(truth) // FEWEST_IN_A_BIN, 1, 10)))
    gaps = [abs(right[part].mean() - confidence[part].mean()) * len(part) for part in bins]
    return round(float(np.sum(gaps) / len(truth)), 12)


def brier(probabilities: Float[np.ndarray, "n c"], truth: Int[np.ndarray, " n"]) -> float:
    """Compute the Brier score, the mean squared distance of probabilities to the truth, summed over classes.

    Returns:
        0 (certain and right) to 2 (certain and wrong); NaN without utterances.

    Example:
        >>> brier(np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([0, 0]))
        0.25
    """
    if not len(truth):
        return float("nan")
    return float(np.square(probabilities - np.eye(probabilities.shape[1])[truth]).sum(axis=1).mean())


def fit_temperature(log_probabilities: Float[np.ndarray, "n c"], truth: Int[np.ndarray, " n"]) -> float:
    """Return the most probable temperature: cross-entropy of `log_probabilities / temperature`, and a prior.

    The prior is log-normal around 1 (`PRIOR_DEVIATION`).

    Args:
        log_probabilities: Predictions for utterances that the classifier was not fitted on, finite.
        truth: True classes.

    Returns:
        A number in `TEMPERATURES`: above 1 where the classifier is too confident; 1 without utterances.
    """
    if not len(truth):
        return 1.0
    rows = np.arange(len(truth))

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(log_probabilities / np.exp(log_temperature), axis=1)
        return (log_temperature / PRIOR_DEVIATION) ** 2 / 2 - float(scaled[rows, truth].sum())

    low, high = np.log(TEMPERATURES)
    best: Any = minimize_scalar(loss, bounds=(low, high), method="bounded")
    return float(np.exp(best.x))
