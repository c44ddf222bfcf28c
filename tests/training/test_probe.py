"""The probe's log-probabilities, against scikit-learn's own."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from pcl_jax.training.probe import _log_probabilities, pool_features, probe

RNG = np.random.default_rng(3)


@pytest.mark.parametrize("present", [(0, 1, 2, 3), (1, 3), (0, 1, 3)])
def test_log_probabilities_are_those_of_scikit_learn_and_their_largest_its_prediction(present):
    x = RNG.normal(size=(200, 5)).astype(np.float32)
    y = np.array(present)[RNG.integers(len(present), size=200)]
    model = LogisticRegression(C=10.0).fit(x, y)
    found = _log_probabilities(model, x, 4)
    np.testing.assert_array_equal(found.argmax(axis=-1), model.predict(x))
    np.testing.assert_allclose(found[:, list(present)], model.predict_log_proba(x), rtol=1e-4, atol=1e-5)
    absent = [c for c in range(4) if c not in present]
    assert (found[:, absent] == -np.inf).all()


def test_a_probe_has_a_row_for_each_labelled_utterance_of_validation_and_test(make_runner):
    runner = make_runner()
    data = runner.data(runner.pretraining(1))
    result = probe(data, pool_features(data, "mel"), data.labelled(data.train))
    assert result.validation.shape == (len(data.labelled(data.validation)), 4)
    assert result.test.shape == (len(data.labelled(data.test)), 4)
    truth = data.labels[data.labelled(data.test)]
    assert np.mean(result.test.argmax(axis=-1) == truth) > 0.5  # the features hold the emotion plainly
