"""Cross-fitting, and the faults that others found in their tools: rows, absent classes, leaks."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pcl_jax.training.classifier import predict
from pcl_jax.training.cross_fit import assign_folds, classes_with_test, cross_fit, label_subset
from tests.learn.conftest import Means, make

quick = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def fitted(data, fit=None, **options) -> np.ndarray:
    folds = assign_folds(data.labels, data.speakers)
    return cross_fit(
        fit or Means(), data.vectors, data.labels, data.speakers, len(data.classes), folds, **options
    )


def shuffled(data, order):
    return replace(
        data,
        vectors={view: rows[order] for view, rows in data.vectors.items()},
        labels=data.labels[order],
        speakers=[data.speakers[i] for i in order],
    )


@quick
@given(st.integers(0, 1000))
def test_rows_of_features_and_labels_stay_together_in_any_order(seed):
    data = make(seed=seed)
    order = np.random.default_rng(seed).permutation(len(data.labels))
    np.testing.assert_allclose(fitted(shuffled(data, order)), fitted(data)[order], atol=1e-4)


@pytest.mark.slow
@quick
@given(st.integers(1, 7), st.integers(2, 6), st.integers(2, 3), st.floats(0.1, 1))
def test_probabilities_sum_to_one_for_every_labelled_row_whatever_the_labels(speakers, each, classes, share):
    data = make(speakers, each, classes, share)
    found = np.exp(fitted(data)[data.labelled])
    assert np.isfinite(found).all()
    assert (found.sum(axis=1) < 1.001).all()
    trained = predict(Means()(data.vectors, data.labels, data.speakers, classes), data.vectors)
    np.testing.assert_allclose(np.exp(trained).sum(axis=1), 1, atol=1e-5)


def test_a_class_that_a_fold_lacks_keeps_its_place():
    data = make(speakers=4)
    only = np.array([name == "s0" for name in data.speakers])
    labels = np.where((data.labels == 1) & ~only, -1, data.labels)  # the class 1 is of one speaker
    data = replace(data, labels=labels)
    folds = assign_folds(labels, data.speakers)
    assert classes_with_test(labels, folds, 3).tolist() == [True, False, True]
    found = fitted(data)
    tested = only & data.labelled
    assert (found[tested].argmax(axis=1) != 1).all()
    assert set(found[tested].argmax(axis=1)) == {0, 2}


def test_no_label_and_no_audio_of_a_left_out_speaker_reaches_training():
    data = make()
    fit = Means()
    fitted(data, fit)
    folds = assign_folds(data.labels, data.speakers)
    groups = [{name for name, f in zip(data.speakers, folds, strict=True) if f == fold} for fold in range(5)]
    assert [set(call[2]) & group for call, group in zip(fit.calls, groups, strict=True)] == [set()] * 5


@quick
@given(st.integers(0, 1000))
def test_garbage_in_the_rows_of_left_out_speakers_changes_no_training(seed):
    """Pseudo-labels, augmentation, statistics: nothing of a test file gets into its own fold's model."""
    data = make(seed=seed)
    rng = np.random.default_rng(seed)
    folds = assign_folds(data.labels, data.speakers)
    held_out = folds == 2
    garbage = {view: np.where(held_out[:, None], 1e3 * rng.normal(size=rows.shape), rows).astype(np.float32)
               for view, rows in data.vectors.items()}  # fmt: skip
    labels = np.where(held_out & data.labelled, rng.integers(3, size=len(held_out)), data.labels)
    first, second = Means(), Means()
    for fit, vectors, known in ((first, data.vectors, data.labels), (second, garbage, labels)):
        cross_fit(fit, vectors, known, data.speakers, 3, folds)
    for before, after in zip(first.calls[2:3], second.calls[2:3], strict=True):
        np.testing.assert_array_equal(before[0]["mel"], after[0]["mel"])
        np.testing.assert_array_equal(before[1], after[1])


def test_labels_of_one_speaker_are_dealt_out_by_class():
    data = make(speakers=1, each=12, labelled=1.0)
    folds = assign_folds(data.labels, data.speakers)
    assert classes_with_test(data.labels, folds, 3).all()
    assert fitted(data).shape == (12, 3)


def test_a_speaker_without_labels_is_in_every_training():
    data = make()
    labels = np.where([name == "s3" for name in data.speakers], -1, data.labels)
    fit = Means()
    data = replace(data, labels=labels)
    fitted(data, fit)
    assert all("s3" in call[2] for call in fit.calls)


def test_a_smaller_share_of_the_labels_is_contained_in_a_larger_one_and_has_every_class():
    labels = make().labels
    small, large = (label_subset(labels, share, 0, 0) for share in (0.25, 0.5))
    assert (small <= large).all()
    assert set(labels[small]) == {0, 1, 2}
    assert not (label_subset(labels, 0.25, 1, 0) == small).all()
