"""Competence of views: Beta posteriors, against draws and limits."""

import numpy as np
import pytest

from pcl_jax.training import readout
from pcl_jax.training.co_training import PENALTY
from pcl_jax.training.competence import (
    PRIOR_SKILL,
    STRENGTH,
    competence,
    counted,
    cross_validate,
    log_odds,
    speaker_groups,
)


def test_the_probability_to_be_best_is_the_share_of_draws():
    hits, count, kinds = np.array([14, 11, 9]), 20, ("states", "vector", "frames")
    found = competence(hits, count, kinds, 4)
    mean = np.array([0.25 + 0.75 * PRIOR_SKILL[kind] for kind in kinds])
    rng = np.random.default_rng(0)
    draws = rng.beta(STRENGTH * mean + hits, STRENGTH * (1 - mean) + count - hits, (200_000, 3))
    shares = (draws.argmax(axis=1)[:, None] == np.arange(3)).mean(axis=0)
    np.testing.assert_allclose(found.best, shares, atol=0.005)
    np.testing.assert_allclose(found.accuracy, draws.mean(axis=0), atol=0.002)


def test_without_labels_the_prior_decides():
    found = competence(np.zeros(2, int), 0, ("vector", "states"), 4)
    np.testing.assert_allclose(found.accuracy, [0.5, 0.55])
    assert found.best[1] > 0.5


def test_with_many_labels_the_hits_decide():
    found = competence(np.array([900, 700]), 1000, ("vector", "states"), 4)
    np.testing.assert_allclose(found.accuracy, [0.9, 0.7], atol=0.01)
    assert found.best[0] > 0.999


def test_speakers_are_never_divided_and_groups_are_even():
    rng = np.random.default_rng(1)
    speakers = rng.choice([f"s{i}" for i in range(12)], 100).tolist()
    groups = speaker_groups(speakers)
    of_speaker = {}
    for speaker, group in zip(speakers, groups.tolist(), strict=True):
        assert of_speaker.setdefault(speaker, group) == group
    sizes = np.bincount(groups, minlength=5)
    assert sizes.max() - sizes.min() <= max(speakers.count(s) for s in set(speakers))


def test_an_utterance_counts_where_other_groups_have_its_class():
    labels, groups = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 0, 1])
    assert counted(labels, groups).tolist() == [True, True, False, False, False]


def test_each_utterance_is_predicted_without_its_group():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(20, 6)).astype(np.float32)
    labels, groups = np.arange(20) % 3, np.arange(20) % 4
    _, found = cross_validate((x @ x.T)[None], labels, groups, 3)
    for group in range(4):
        kept = groups != group
        dual = readout.fit(
            x[kept] @ x[kept].T, np.eye(3, dtype=np.float32)[labels[kept]], np.ones(15), PENALTY
        )
        scores = np.array(readout.logits(dual, x[~kept] @ x[kept].T))
        scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
        np.testing.assert_allclose(found[0, ~kept], scores, atol=1e-3)


@pytest.mark.parametrize("classes", [2, 4])
def test_a_vote_weighs_nothing_less_than_a_little(classes):
    weights = log_odds(np.array([0.0, 1 / classes, 0.6, 0.9]), classes)
    assert (weights > 0).all()
    assert weights[0] == weights[1] < weights[2] < weights[3]
