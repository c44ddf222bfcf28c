"""Intervals over speakers: they cover what they say, and know that voices are not independent."""

import numpy as np

from pcl_jax.evaluation.intervals import interval, of_other_speakers, uar_draws
from pcl_jax.evaluation.metrics import recall


def simulated(rng: np.random.Generator, speakers: int, each: int, spread: float) -> tuple:
    """Two classes; each speaker has an accuracy of his or her own around 70 %."""
    names = np.repeat(np.arange(speakers), each)
    skill = np.clip(0.7 + spread * rng.normal(size=speakers), 0, 1)
    truth = rng.integers(2, size=len(names))
    right = rng.random(len(names)) < skill[names]
    return truth, np.where(right, truth, 1 - truth), [str(name) for name in names]


def bounds(truth, found, names) -> tuple[float, float]:
    draws = uar_draws(truth, [found], names, 2, np.random.default_rng(1), 500)[0]
    return interval(draws, len(set(names)))


def test_the_interval_covers_the_accuracy_on_new_speakers():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        low, high = bounds(*simulated(rng, 10, 10, 0.1))
        covered += low <= 0.7 <= high
    assert covered >= 180


def test_utterances_of_few_speakers_are_worth_less_than_of_many():
    rng = np.random.default_rng(0)
    widths = {
        n: np.mean([np.ptp(bounds(*simulated(rng, n, 200 // n, 0.2))) for _ in range(20)]) for n in (5, 100)
    }
    assert widths[5] > 1.3 * widths[100]


def test_the_interval_covers_the_accuracy_on_new_speakers_of_five():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        low, high = bounds(*simulated(rng, 5, 10, 0.1))
        covered += low <= 0.7 <= high
    assert covered >= 185


def test_a_test_on_as_many_other_speakers_lies_in_the_wider_interval():
    rng = np.random.default_rng(0)
    covered = {"all": 0, "other": 0}
    for _ in range(200):
        truth, found, names = simulated(rng, 10, 10, 0.1)
        draws = uar_draws(truth, [found], names, 2, np.random.default_rng(1), 500)[0]
        truth, found, _ = simulated(rng, 10, 10, 0.1)
        shown = recall(truth, found, 2).mean()
        for name, values in {"all": draws, "other": of_other_speakers(draws)}.items():
            low, high = interval(values, 10)
            covered[name] += low <= shown <= high
    assert covered["other"] >= 190
    assert covered["other"] >= covered["all"]


def test_all_right_is_not_certainly_right():
    truth = np.array([0, 1] * 10)
    low, high = bounds(truth, truth, [str(i // 4) for i in range(20)])
    assert 0.7 < low < 0.95
    assert high <= 1


def test_the_same_predictions_have_no_difference_in_any_draw():
    rng = np.random.default_rng(0)
    truth, found, names = simulated(rng, 6, 8, 0.1)
    first, second = uar_draws(truth, [found, found], names, 2, rng, 100)
    np.testing.assert_array_equal(first, second)
