"""UAR and WA against scikit-learn and computed by hand, with a class that is absent."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, recall_score

from pcl_jax.evaluation.metrics import confusion, recall, uar, wa

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)


@given(PAIRS)
def test_metrics_agree_with_scikit_learn_when_it_knows_the_classes(pairs):
    truth, prediction = np.array(pairs).T
    assert (confusion(truth, prediction, 5) == confusion_matrix(truth, prediction, labels=range(5))).all()
    expected = recall_score(truth, prediction, labels=range(5), average="macro", zero_division=0)
    assert uar(truth, prediction, 5) == pytest.approx(expected)
    assert wa(truth, prediction) == pytest.approx(accuracy_score(truth, prediction))


def test_an_absent_class_counts_as_recall_zero():
    truth = np.array([0, 0, 0, 0, 1, 1, 2])
    prediction = np.array([0, 0, 0, 1, 1, 2, 0])
    assert recall(truth, prediction, 4).tolist() == [0.75, 0.5, 0.0, 0.0]
    assert uar(truth, prediction, 4) == 1.25 / 4
    assert wa(truth, prediction) == 4 / 7


@pytest.mark.parametrize("labels", [[0, 4], [-1, 0]])
def test_a_label_outside_the_classes_is_refused(labels):
    with pytest.raises(ValueError, match=r"prediction holds labels .*4 classes"):
        uar(np.array([0, 1]), np.array(labels), 4)
