"""The bootstrap over speakers and repeats: by hand where it can be enumerated, by simulation where not."""

from itertools import product

import numpy as np
import pytest

from pcl_jax.evaluation import bootstrap
from pcl_jax.evaluation.bootstrap import bootstrap_uar


def test_the_value_is_the_uar_over_all_speakers_and_the_mean_over_repeats():
    right = np.array([[[3, 0], [1, 4.0]], [[4, 1], [2, 4]]])  # repeat, speaker, class
    total = np.array([[4, 2], [4, 6]])
    recalls = [(4 / 8, 4 / 8), (6 / 8, 5 / 8)]
    assert bootstrap_uar(right, total).value == pytest.approx(np.mean(recalls))


def test_resamples_are_those_of_all_speakers_and_repeats_with_replacement():
    """Two speakers and two repeats have 16 equally likely resamples; a percentile of them is known."""
    right = np.array([[[6], [-2.0]], [[2], [-4]]])  # a difference of two methods
    total = np.array([[10], [20]])
    draws = [
        np.mean([right[r, list(s), 0].sum() for r in repeats]) / total[list(s), 0].sum()
        for repeats, s in product(product((0, 1), repeat=2), repeat=2)
    ]
    found = bootstrap_uar(right, total)
    assert found.value == pytest.approx(2 / 2 / 30)
    assert (found.low, found.high) == pytest.approx((min(draws), max(draws)))  # t with one degree of freedom
    above = np.mean([(draw > 0) + 0.5 * (draw == 0) for draw in draws])
    assert found.above == pytest.approx(above, abs=0.02)


def test_a_class_that_no_speaker_has_counts_zero_and_one_that_a_resample_lacks_is_left_out():
    right, total = np.array([[[4, 0, 0], [0, 3.0, 0]]]), np.array([[4, 0, 0], [0, 3, 0]])
    found = bootstrap_uar(right, total)
    assert found[:3] == pytest.approx((2 / 3, 1 / 2, 2 / 3))  # half: one class of the two that are counted


def test_methods_that_are_equal_differ_by_nothing_and_a_single_speaker_tells_no_interval():
    total = np.full((5, 2), 10)
    assert tuple(bootstrap_uar(np.zeros((3, 5, 2)), total)) == (0, 0, 0, 0.5, 1)
    alone = bootstrap_uar(np.full((3, 1, 2), 4.0), total[:1])
    assert alone.value == pytest.approx(0.4)
    assert np.isnan([alone.low, alone.high, alone.p]).all()
    assert np.isnan(tuple(bootstrap_uar(np.zeros((0, 1, 2)), total[:1]))).all()


def test_equal_seeds_draw_alike_and_others_otherwise():
    rng = np.random.default_rng(0)
    total = np.full((6, 2), 10)
    right = rng.binomial(10, 0.6, size=(4, 6, 2)).astype(float)
    assert bootstrap_uar(right, total, seed=1) == bootstrap_uar(right, total, seed=1)
    assert bootstrap_uar(right, total, seed=1) != bootstrap_uar(right, total, seed=2)


def coverage(speaker_sd: float, repeat_sd: float, speakers: int, repeats: int, worlds: int = 200) -> float:
    """Return how often the interval holds the true difference, over made-up corpora and label subsets."""
    rng = np.random.default_rng(7)
    total, truth, held = np.full((speakers, 2), 50), 0.05, 0
    for _ in range(worlds):
        effect = truth + speaker_sd * rng.normal(size=(1, speakers, 1))
        effect = effect + repeat_sd * rng.normal(size=(repeats, 1, 1))
        found = bootstrap_uar(50 * (effect + 0.03 * rng.normal(size=(repeats, speakers, 2))), total)
        held += found.low <= truth <= found.high
    return held / worlds


@pytest.mark.parametrize(
    ("speaker_sd", "repeat_sd", "speakers", "repeats"),
    [(0.1, 0.0, 10, 10), (0.05, 0.05, 10, 10), (0.1, 0.03, 24, 10)],
)
def test_intervals_hold_the_truth_as_often_as_they_say(speaker_sd, repeat_sd, speakers, repeats, monkeypatch):
    """95 %, less two standard errors of 200 corpora, to nearly all; unexpanded, ten speakers give 90 %."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 999)  # 200 times in each case
    assert 0.92 <= coverage(speaker_sd, repeat_sd, speakers, repeats) <= 0.995


def test_resampling_repeats_alone_would_hold_it_far_less():
    """The reason for resampling speakers: with one, their differences are taken for none."""
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(100):
        effect = 0.05 + 0.1 * rng.normal(size=10) + 0.01 * rng.normal(size=(10, 10))  # repeat, speaker
        by_repeat = effect.mean(axis=1)
        half = 2.26 * by_repeat.std(ddof=1) / np.sqrt(10)
        held += abs(by_repeat.mean() - 0.05) <= half
    assert held < 50
