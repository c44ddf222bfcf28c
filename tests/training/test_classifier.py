"""A classifier's predictions follow from its parts: readouts, their weights, a temperature, the speakers."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import log_softmax

from pcl_jax.models.readout import Readout
from pcl_jax.training.classifier import LEAST_TO_NORMALISE, Trained, by_speaker, moments, predict

RNG = np.random.default_rng(0)
FEATURES, CLASSES, UTTERANCES = 5, 3, 24
VECTORS = {view: RNG.normal(size=(UTTERANCES, FEATURES)).astype(np.float32) for view in ("mel", "egemaps")}


def a_readout():
    return Readout(
        RNG.normal(size=FEATURES).astype(np.float32),
        RNG.uniform(0.5, 2, FEATURES).astype(np.float32),
        RNG.normal(size=(FEATURES, CLASSES)).astype(np.float32),
        RNG.normal(size=CLASSES).astype(np.float32),
    )


READOUTS = {view: a_readout() for view in VECTORS}
WHOLE = Trained(READOUTS, {"mel": 0.7, "egemaps": 0.3}, CLASSES)


def scores(readout, rows):
    """Return a readout's log-probabilities, in float64."""
    return log_softmax((rows - readout.mean) / readout.scale @ readout.weight + readout.bias, axis=1)


def test_log_probabilities_are_the_weighted_mean_of_the_views():
    mean = sum(WHOLE.weights[view] * scores(READOUTS[view], VECTORS[view]) for view in VECTORS)
    np.testing.assert_allclose(predict(WHOLE, VECTORS), log_softmax(mean, axis=1), atol=1e-5)


def test_a_temperature_divides_log_probabilities():
    cool = predict(WHOLE, VECTORS)
    warm = predict(replace(WHOLE, temperature=2.5), VECTORS)
    np.testing.assert_allclose(warm, log_softmax(cool / 2.5, axis=1), atol=1e-5)


@pytest.fixture
def by_voice():
    """Return a classifier that normalises by speaker, and whose fallback has other readouts."""
    general = Trained({view: a_readout() for view in VECTORS}, WHOLE.weights, CLASSES)
    return replace(WHOLE, normalise="speaker", fallback=general)


def test_speakers_with_enough_utterances_are_normalised(by_voice):
    few = LEAST_TO_NORMALISE - 1
    speakers = (
        ["few"] * few + ["enough"] * LEAST_TO_NORMALISE + ["many"] * (UTTERANCES - few - LEAST_TO_NORMALISE)
    )
    found = predict(by_voice, VECTORS, speakers)
    general = predict(by_voice.fallback, VECTORS)
    rows = {view: by_speaker(x[few:], speakers[few:]) for view, x in VECTORS.items()}
    np.testing.assert_allclose(found[:few], general[:few], atol=1e-6)
    np.testing.assert_allclose(found[few:], predict(WHOLE, rows), atol=1e-6)
    assert np.abs(found[few:] - general[few:]).max() > 0.1


@pytest.mark.parametrize("clips", [1, 2, 4])
def test_the_statistics_of_a_few_clips_are_never_taken_for_a_voice(by_voice, clips):
    """Of one clip, they would leave zeros, and the same prediction whatever was said."""
    speakers = ["new"] * clips + ["known"] * (UTTERANCES - clips)
    general = predict(by_voice.fallback, VECTORS)
    np.testing.assert_allclose(predict(by_voice, VECTORS, speakers)[:clips], general[:clips], atol=1e-6)


def test_without_speakers_the_fallback_predicts(by_voice):
    np.testing.assert_array_equal(predict(by_voice, VECTORS), predict(by_voice.fallback, VECTORS))


def test_moments_leave_out_values_that_are_not_finite():
    rows = np.array([[1.0, np.nan], [3.0, 5.0], [np.inf, 9.0], [2.0, -np.inf]])
    mean, scale = moments(rows)
    np.testing.assert_allclose(mean, [2, 7])
    np.testing.assert_allclose(scale, [np.sqrt(2 / 3), 2])


@pytest.mark.parametrize("value", [0.0, 1e-3, 12345.678])
def test_the_deviation_of_a_constant_is_one(value):
    rows = np.full((7, 1), value, np.float32)
    np.testing.assert_allclose(moments(rows)[1], 1)
    np.testing.assert_allclose(by_speaker(rows, ["a"] * 7), 0, atol=1e-2)
