"""UAR and WA: what the field reports, over the classes it was given."""

import numpy as np
from jaxtyping import Float, Int

from pcl_jax.arrays import Array


def confusion(
    truth: Int[Array, " n"], prediction: Int[Array, " n"], num_classes: int
) -> Int[np.ndarray, "c c"]:
    """Counts `[truth, prediction]`.

    Raises:
        ValueError: if a label lies outside `0 .. num_classes - 1`.
    """
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    for name, labels in (("truth", truth), ("prediction", prediction)):
        if labels.size and not (labels.min() >= 0 and labels.max() < num_classes):
            raise ValueError(
                f"{name} holds labels {labels.min()}..{labels.max()}, but there are {num_classes} classes; "
                "encode labels as 0 .. num_classes - 1"
            )
    return np.bincount(truth * num_classes + prediction, minlength=num_classes**2).reshape(num_classes, -1)


def recall(
    truth: Int[Array, " n"], prediction: Int[Array, " n"], num_classes: int
) -> Float[np.ndarray, " c"]:
    """Recall of each class; 0 for a class that `truth` lacks."""
    counts = confusion(truth, prediction, num_classes)
    return np.diag(counts) / np.maximum(counts.sum(axis=1), 1)


def uar(truth: Int[Array, " n"], prediction: Int[Array, " n"], num_classes: int) -> float:
    """Unweighted average recall: the mean of the recalls of *all the given* classes.

    A class that `truth` lacks counts as recall 0. scikit-learn's `balanced_accuracy_score` leaves it
    out and its `recall_score(average="macro")` infers the classes, so both are higher then.

    >>> uar(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)
    0.75
    >>> uar(np.array([0, 0, 1]), np.array([0, 1, 1]), 4)
    0.375
    """
    return float(recall(truth, prediction, num_classes).mean())


def wa(truth: Int[Array, " n"], prediction: Int[Array, " n"]) -> float:
    """Weighted accuracy: the share of utterances that are right (0 for none)."""
    return float(np.mean(np.asarray(truth) == np.asarray(prediction))) if len(truth) else 0.0
