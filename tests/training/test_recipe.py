"""The recipe and the methods below it, on synthetic speakers whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest

from pcl_jax.training import pool
from pcl_jax.training import recipe as recipe_module
from pcl_jax.training.classifier import by_speaker, predict
from pcl_jax.training.pool import Pool
from pcl_jax.training.recipe import (
    METHODS,
    concentration,
    fit_temperature,
    posterior_gain,
    recipe,
)

CLASSES = 4
KINDS = {"egemaps": "vector", "whisper": "states"}


def a_corpus(seed, *, speakers=12, utterances=24, voice=1.0, one_emotion=False):
    """Return vectors, truth and speakers: each view is class + voice + noise, independent between views."""
    rng = np.random.default_rng(seed)
    names = np.repeat([f"s{i:02d}" for i in range(speakers)], utterances)
    number = np.repeat(np.arange(speakers), utterances)
    truth = np.tile(np.arange(utterances) % CLASSES, speakers)
    if one_emotion:
        truth = np.where(rng.uniform(size=len(truth)) < 0.85, number % CLASSES, truth)
    vectors = {}
    for view in KINDS:
        emotions, voices = rng.normal(size=(CLASSES, 20)), rng.normal(size=(speakers, 20))
        vectors[view] = 0.6 * emotions[truth] + voice * voices[number] + rng.normal(size=(len(truth), 20))
    return {view: x.astype(np.float32) for view, x in vectors.items()}, truth, names.tolist()


def few(truth, per_class, seed=0):
    """Return labels of which all but a few of each class are hidden."""
    rng, labels = np.random.default_rng(seed), np.full(len(truth), -1)
    for c in range(CLASSES):
        chosen = rng.choice(np.flatnonzero(truth == c), per_class, replace=False)
        labels[chosen] = c
    return labels


def accuracy(trained, vectors, truth, speakers):
    return (predict(trained, vectors, speakers).argmax(axis=1) == truth).mean()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("per_class", [1, 5])
def test_every_method_learns_from_few_labels(method, per_class):
    vectors, truth, speakers = a_corpus(0, voice=0.3)
    trained = METHODS[method](vectors, few(truth, per_class), speakers, CLASSES, kinds=KINDS)
    scores = predict(trained, vectors, speakers)
    assert scores.shape == (len(truth), CLASSES)
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1, rtol=1e-5)
    assert (scores.argmax(axis=1) == truth).mean() > 0.4


def test_voices_are_taken_away_where_speakers_act_all_emotions():
    vectors, truth, speakers = a_corpus(1, voice=1.5)
    trained = recipe(vectors, few(truth, 5), speakers, CLASSES, kinds=KINDS)
    assert trained.normalise == "speaker"
    assert trained.fallback is not None
    simple = METHODS["probe"](vectors, few(truth, 5), speakers, CLASSES, kinds=KINDS)
    new, new_truth, new_speakers = a_corpus(1, voice=1.5)
    gained = accuracy(trained, new, new_truth, new_speakers) - accuracy(simple, new, new_truth, new_speakers)
    assert gained > 0.1


@pytest.mark.slow
def test_emotions_are_not_taken_away_where_speakers_have_one_each():
    vectors, truth, speakers = a_corpus(2, voice=0.5, one_emotion=True, utterances=14)
    for per_class in (1, 5, 15):
        trained = recipe(vectors, few(truth, per_class), speakers, CLASSES, kinds=KINDS)
        assert trained.normalise == "fold"


@pytest.mark.slow
def test_many_labels_overrule_the_prior_about_speakers():
    """Twelve utterances of a speaker speak against normalisation; enough labels show that it pays."""
    vectors, truth, speakers = a_corpus(3, voice=2.5, utterances=12, speakers=30)
    assert recipe(vectors, few(truth, 1), speakers, CLASSES, kinds=KINDS).normalise == "fold"
    assert recipe(vectors, few(truth, 60), speakers, CLASSES, kinds=KINDS).normalise == "speaker"


def with_noise(seed, noise):
    """Return a corpus of which one view says nothing about the classes."""
    vectors, truth, speakers = a_corpus(seed, voice=0.3)
    vectors[noise] = np.random.default_rng(seed).normal(size=vectors[noise].shape).astype(np.float32)
    return vectors, truth, speakers


@pytest.mark.parametrize("noise", KINDS)
def test_a_view_of_noise_is_recognised(noise):
    vectors, truth, speakers = with_noise(10, noise)
    (good,) = set(KINDS) - {noise}
    labels = few(truth, 12)
    assert list(METHODS["probe"](vectors, labels, speakers, CLASSES, kinds=KINDS).readouts) == [good]
    for method in ("fusion", "co-training"):
        trained = METHODS[method](vectors, labels, speakers, CLASSES, kinds=KINDS)
        assert trained.weights.get(noise, 0.0) < 0.05 < trained.weights[good]


@pytest.mark.parametrize("noise", KINDS)
def test_a_dominant_view_is_left_as_it_is(noise):
    """A dominant view teaches and is not taught, so that its readout is the one on the labels alone."""
    vectors, truth, speakers = with_noise(10, noise)
    (good,) = set(KINDS) - {noise}
    plain, taught = (
        METHODS[method](vectors, few(truth, 12), speakers, CLASSES, kinds=KINDS).readouts[good]
        for method in ("fusion", "co-training")
    )
    np.testing.assert_allclose(taught.weight, plain.weight, atol=1e-4)


def test_the_scores_of_co_trained_views_are_those_of_the_classifier_that_is_returned():
    """Views are weighted in the one, from which the recipe decides, as in the other."""
    vectors, truth, speakers = with_noise(10, "egemaps")
    labels = few(truth, 12)
    task = recipe_module._tasks(vectors, labels, speakers, CLASSES, KINDS, 0)("fold")
    found = recipe_module._co_train(task, recipe_module._validate(task))
    trained = METHODS["co-training"](vectors, labels, speakers, CLASSES, kinds=KINDS)
    rows = Pool(vectors, speakers).rows(labels, 0)
    expected = predict(replace(trained, temperature=1.0), vectors)[rows]
    np.testing.assert_allclose(found.scores, expected, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("noise", KINDS)
def test_little_gain_is_expected_over_a_dominant_view(noise):
    vectors, truth, speakers = with_noise(11, noise)
    choice = recipe(vectors, few(truth, 30), speakers, CLASSES, kinds=KINDS).choice
    assert choice["expected gain over the best single view"] < 0.15


def test_labels_of_noise_promise_nothing():
    """Each label is predicted by readouts that have not seen it, co-trained ones too."""
    vectors, truth, speakers = a_corpus(12)
    labels = np.random.default_rng(0).permutation(few(truth, 15))
    choice = recipe(vectors, labels, speakers, CLASSES, kinds=KINDS).choice
    assert choice["expected gain over the best single view"] < 0.1
    for method in METHODS.values():
        assert method(vectors, labels, speakers, CLASSES, kinds=KINDS).temperature > 1.1


@pytest.mark.parametrize(("gain", "method"), [(1.0, "co-training"), (-1.0, "probe")])
def test_the_prior_chooses_between_co_training_and_the_probe(monkeypatch, gain, method):
    monkeypatch.setattr(recipe_module, "GAIN", gain)
    vectors, truth, speakers = a_corpus(13)
    labels = few(truth, 2)
    trained = recipe(vectors, labels, speakers, CLASSES, kinds=KINDS)
    assert trained.choice["method"] == method
    if method == "probe":
        simple = METHODS["probe"](vectors, labels, speakers, CLASSES, kinds=KINDS)
        np.testing.assert_array_equal(predict(trained, vectors), predict(simple, vectors))


@pytest.mark.slow
def test_the_gain_is_that_of_the_normalisation_that_was_chosen():
    vectors, truth, speakers = a_corpus(14, voice=3.0, speakers=30)
    choice = recipe(vectors, few(truth, 30), speakers, CLASSES, kinds=KINDS).choice
    by_speaker_gain = choice["expected gain of normalisation by speaker"]
    assert by_speaker_gain > 0.1
    assert choice["expected gain over the best single view"] > by_speaker_gain - 0.02


def test_a_single_label_of_a_class_does_not_count_in_the_cross_validation():
    vectors, truth, speakers = a_corpus(15, voice=0.3)
    labels = few(truth, 8)
    rare = np.flatnonzero(labels == 3)[1:]
    labels[rare] = -1
    trained = METHODS["probe"](vectors, labels, speakers, CLASSES, kinds=KINDS)
    assert trained.choice["utterances in the cross-validation"] == 24
    labels[labels == 3] = -1
    without = METHODS["probe"](vectors, labels, speakers, CLASSES, kinds=KINDS)
    assert trained.temperature == pytest.approx(without.temperature, rel=0.3)


@pytest.mark.parametrize("method", METHODS)
def test_hidden_labels_are_never_read(method):
    """Any negative number means that there is no label in the budget; which one it is changes nothing."""
    vectors, truth, speakers = a_corpus(4)
    labels = few(truth, 3)
    other = np.where(labels >= 0, labels, -1 - truth)
    one = METHODS[method](vectors, labels, speakers, CLASSES, kinds=KINDS)
    two = METHODS[method](vectors, other, speakers, CLASSES, kinds=KINDS)
    np.testing.assert_array_equal(predict(one, vectors, speakers), predict(two, vectors, speakers))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_pool_that_is_shared_changes_nothing(method):
    vectors, truth, speakers = a_corpus(4)
    shared = Pool(vectors, speakers)
    for per_class in (2, 5):
        labels = few(truth, per_class)
        alone = METHODS[method](vectors, labels, speakers, CLASSES, kinds=KINDS)
        together = METHODS[method](shared, labels, speakers, CLASSES, kinds=KINDS)
        np.testing.assert_array_equal(predict(alone, vectors, speakers), predict(together, vectors, speakers))


def test_unknown_speakers_get_the_predictions_of_the_fallback():
    vectors, truth, speakers = a_corpus(1, voice=1.5)
    trained = recipe(vectors, few(truth, 5), speakers, CLASSES, kinds=KINDS)
    assert trained.fallback is not None
    expected = predict(trained.fallback, vectors)
    np.testing.assert_array_equal(predict(trained, vectors), expected)
    rows = {view: x[:4] for view, x in vectors.items()}  # four utterances are too few to know a voice
    np.testing.assert_allclose(predict(trained, rows, speakers[:4]), expected[:4], atol=1e-5)


def test_predictions_do_not_depend_on_the_batch():
    vectors, truth, speakers = a_corpus(5)
    trained = METHODS["co-training"](vectors, few(truth, 4), speakers, CLASSES, kinds=KINDS)
    whole = predict(trained, vectors)
    parts = [predict(trained, {v: x[i : i + 7] for v, x in vectors.items()}) for i in range(0, len(truth), 7)]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-5)


def test_values_that_are_not_finite_count_as_the_mean():
    vectors, truth, speakers = a_corpus(6)
    vectors["egemaps"][3, 2] = np.nan
    trained = METHODS["fusion"](vectors, few(truth, 4), speakers, CLASSES, kinds=KINDS)
    assert np.isfinite(predict(trained, vectors)).all()


def test_a_method_needs_a_label():
    vectors, truth, speakers = a_corpus(7)
    with pytest.raises(ValueError, match="no utterance has a label"):
        recipe(vectors, np.full(len(truth), -1), speakers, CLASSES)


def test_too_many_unlabelled_utterances_are_drawn_from(monkeypatch):
    vectors, truth, speakers = a_corpus(8)
    monkeypatch.setattr(pool, "MOST_UNLABELLED", 100)
    one, two = (METHODS["co-training"](vectors, few(truth, 4), speakers, CLASSES, seed=s) for s in (0, 0))
    np.testing.assert_array_equal(predict(one, vectors), predict(two, vectors))
    other = METHODS["co-training"](vectors, few(truth, 4), speakers, CLASSES, seed=1)
    assert (predict(one, vectors) != predict(other, vectors)).any()


def test_each_speaker_has_mean_zero_and_deviation_one():
    vectors, _, speakers = a_corpus(9)
    normalised = by_speaker(vectors["egemaps"], speakers)
    for name in set(speakers):
        rows = normalised[np.array(speakers) == name]
        np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(rows.std(axis=0), 1, atol=1e-4)


def test_the_posterior_of_a_gain_moves_from_the_prior_to_what_is_seen():
    nothing = np.zeros(0, bool)
    assert posterior_gain(nothing, nothing, 0.05, 0.06) == pytest.approx(0.05)
    rng = np.random.default_rng(0)
    before, after = rng.uniform(size=20_000) < 0.6, rng.uniform(size=20_000) < 0.5
    assert posterior_gain(before, after, 0.05, 0.06) == pytest.approx(-0.1, abs=0.02)


def test_concentration_is_zero_where_speaker_and_class_are_independent():
    speakers, predicted = np.repeat(["a", "b", "c"], 8).tolist(), np.tile(np.arange(4), 6)
    assert concentration(predicted, speakers, 4) == pytest.approx(0, abs=1e-9)


def test_the_temperature_undoes_a_scale():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5000, 4)) * 2
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = (p.cumsum(axis=1) > rng.uniform(size=(5000, 1))).argmax(axis=1)
    log = np.log(p)
    assert fit_temperature(log, truth) == pytest.approx(1, abs=0.06)
    assert fit_temperature(3 * log, truth) == pytest.approx(3, rel=0.06)
    assert fit_temperature(log[:0], truth[:0]) == pytest.approx(1)
