"""Suggestions: typical clips first, uncertain ones later, spread over clusters and speakers."""

from itertools import cycle, islice

import numpy as np
import pytest

from pcl_jax.training import suggest as module
from pcl_jax.training.suggest import choose_typical, choose_uncertain, points, suggest


def blobs(count: int = 20, seed: int = 0):
    """Return vectors of five groups, their groups and speakers; each speaker is far from the others."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(5), count)
    speakers = list(islice(cycle("abcd"), len(groups)))
    shift = np.array([1000.0 * "abcd".index(name) for name in speakers])
    x = 20 * np.eye(5)[groups] + rng.normal(size=(len(groups), 5)) + shift[:, None]
    return {"egemaps": x.astype(np.float32)}, groups, speakers


def unlabelled(groups):
    return np.full(len(groups), -1)


def test_the_first_labels_are_one_of_each_group_whoever_speaks():
    vectors, groups, speakers = blobs()
    chosen = [s.row for s in suggest(vectors, speakers, unlabelled(groups), 5)]
    assert sorted(groups[chosen]) == [0, 1, 2, 3, 4]


def test_a_group_that_has_a_label_comes_last():
    vectors, groups, speakers = blobs()
    labels = unlabelled(groups)
    labels[np.flatnonzero(groups == 2)[0]] = 0
    chosen = [s.row for s in suggest(vectors, speakers, labels, 4)]
    assert sorted(groups[chosen]) == [0, 1, 3, 4]


def test_suggestions_are_spread_over_speakers():
    vectors, groups, speakers = blobs()
    chosen = [s.row for s in suggest(vectors, speakers, unlabelled(groups), 8)]
    heard = [speakers[row] for row in chosen]
    assert all(heard.count(name) == 2 for name in "abcd")


def test_a_typical_clip_is_no_outlier():
    vectors, groups, _ = blobs()
    vectors["egemaps"][3] += 15
    x = points(vectors, ["a"] * len(groups))
    assert 3 not in choose_typical(x, ["a"] * len(groups), np.zeros(len(groups), bool), 5, 0)


def test_the_same_seed_gives_the_same_clips_and_no_clip_comes_twice_or_has_a_label():
    vectors, groups, speakers = blobs()
    labels = np.where(np.arange(len(groups)) % 3 == 0, groups, -1)
    log_probabilities = np.log(np.random.default_rng(1).dirichlet(np.ones(5), len(groups)))
    for count in (1, 7, 40, 1000):
        first, again = (
            suggest(vectors, speakers, labels, count, log_probabilities=log_probabilities, seed=4)
            for _ in range(2)
        )
        rows = [s.row for s in first]
        assert first == again
        assert len(set(rows)) == len(rows) == min(count, (labels < 0).sum())
        assert all(labels[row] < 0 for row in rows)
        assert {s.reason for s in first} == {"uncertain"}


def test_uncertain_clips_are_those_between_two_classes():
    vectors, groups, speakers = blobs()
    sure = np.tile([[0.98, 0.01, 0.01]], (len(groups), 1))
    doubtful = np.arange(0, len(groups), 10)
    sure[doubtful] = [0.5, 0.49, 0.01]
    x = points(vectors, speakers)
    labelled = np.zeros(len(groups), bool)
    chosen = choose_uncertain(x, speakers, labelled, np.log(sure), 1, 0)
    assert chosen[0] in doubtful
    chosen = choose_uncertain(x, speakers, labelled, np.log(sure), 5, 0)
    assert len(set(groups[chosen])) == 5
    assert len(set(chosen) & set(doubtful)) == 5


def test_equal_clips_and_a_view_of_constants_are_no_obstacle():
    vectors = {"egemaps": np.ones((6, 3), np.float32), "mel": np.full((6, 2), np.nan, np.float32)}
    for labels in (np.full(6, -1), np.array([0, 1, 0, 1, -1, -1])):
        even = np.log(np.full((6, 2), 0.5))
        chosen = suggest(vectors, list("aabbcc"), labels, 2, log_probabilities=even)
        assert len({s.row for s in chosen}) == 2


def test_a_large_pool_is_sampled(monkeypatch):
    monkeypatch.setattr(module, "LARGEST_SAMPLE", 30)
    vectors, groups, speakers = blobs()
    assert len({s.row for s in suggest(vectors, speakers, unlabelled(groups), 10)}) == 10
    assert len(suggest(vectors, speakers, unlabelled(groups), 80)) == 80


@pytest.mark.parametrize(
    ("count", "speakers", "message"), [(0, 100, "count is 0"), (3, 99, r"utterances: give|give each one row")]
)
def test_arguments_that_do_not_belong_together_are_refused(count, speakers, message):
    vectors, groups, names = blobs()
    with pytest.raises(ValueError, match=message):
        suggest(vectors, names[:speakers], unlabelled(groups), count)


def test_nothing_is_suggested_where_all_have_labels():
    vectors, groups, speakers = blobs()
    assert suggest(vectors, speakers, groups, 3) == []
