"""Calibration: errors of known distributions, and the temperature that mends them."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.metrics import brier_score_loss

from pcl_jax.evaluation.calibration import brier, calibration_error, fit_temperature


def drawn(n: int = 4000, sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax is the truth's distribution, made sharper by a factor."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(n, 3)) * 1.5
    truth = np.array([rng.choice(3, p=p) for p in softmax(logits, axis=1)])
    return logits * sharpness, truth


def test_probabilities_that_are_true_have_a_small_error_and_sharper_ones_a_large_one():
    logits, truth = drawn()
    assert calibration_error(softmax(logits, axis=1), truth) < 0.03
    assert calibration_error(softmax(3 * logits, axis=1), truth) > 0.1


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_the_temperature_is_the_factor_by_which_logits_are_too_sharp(sharpness):
    logits, truth = drawn(sharpness=sharpness)
    found = fit_temperature(log_softmax(logits, axis=1), truth)
    assert found == pytest.approx(sharpness, rel=0.1)
    assert calibration_error(softmax(logits / found, axis=1), truth) < 0.03


def test_ten_right_of_ten_do_not_make_certainty():
    scores = log_softmax(np.array([[2.0, 0.0]] * 10), axis=1)
    found = softmax(scores / fit_temperature(scores, np.zeros(10, int)), axis=1)
    assert 0.9 < found[0, 0] < 0.9999


def test_brier_of_two_classes_is_twice_scikit_learns():
    logits, truth = drawn()
    truth = truth % 2
    p = softmax(logits[:, :2], axis=1)
    assert brier(p, truth) == pytest.approx(2 * brier_score_loss(truth, p[:, 1]))


def test_nothing_to_calibrate_on_is_no_number_and_no_change():
    empty = np.zeros((0, 2))
    assert np.isnan(calibration_error(empty, np.zeros(0, int)))
    assert np.isnan(brier(empty, np.zeros(0, int)))
    assert fit_temperature(empty, np.zeros(0, int)) == 1.0
