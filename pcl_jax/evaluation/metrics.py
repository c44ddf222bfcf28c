"""Unweighted average recall (UAR) and weighted accuracy (WA), over an explicit number of classes."""

import numpy as np
from jaxtyping import Float, Int

from pcl_jax.arrays import Array


def confusion(
    truth: Int[Array, " n"], prediction: Int[Array, " n"], num_classes: int
) -> Int[np.ndarray, "c c"]:
    """Count the utterances of each (truth, prediction).

    Args:
        truth: True class of each utterance, `[n]`, encoded as 0 .. num_classes - 1.
        prediction: Predicted class of each utterance, `[n]`.
        num_classes: Number of classes of the task, present in `truth` or not.

    Returns:
        Counts `[truth, prediction]`, as `sklearn.metrics.confusion_matrix(labels=range(num_classes))`.

    Raises:
        ValueError: If a label lies outside 0 .. num_classes - 1.

    Example:
        >>> confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
        [[1, 1], [0, 1]]
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
    """Compute the recall of each class; 0 for a class that `truth` lacks.

    Args:
        truth: True class of each utterance, `[n]`.
        prediction: Predicted class of each utterance, `[n]`.
        num_classes: Number of classes of the task.

    Returns:
        Recalls `[num_classes]` in [0, 1].

    Raises:
        ValueError: If a label lies outside 0 .. num_classes - 1.
    """
    counts = confusion(truth, prediction, num_classes)
    return np.diag(counts) / np.maximum(counts.sum(axis=1), 1)


def uar(truth: Int[Array, " n"], prediction: Int[Array, " n"], num_classes: int) -> float:
    r"""Compute the unweighted average recall: the mean recall over all `num_classes` classes.

    $$\mathrm{UAR} = \frac{1}{C} \sum_{c=1}^{C} \frac{\text{correct utterances of class } c}
      {\text{utterances of class } c}$$

    A class that `truth` lacks counts as recall 0. In scikit-learn `balanced_accuracy_score` leaves such a
    class out and `recall_score(average="macro")` infers the classes, so both are higher in that case.

    Args:
        truth: True class of each utterance, `[n]`, encoded as 0 .. num_classes - 1.
        prediction: Predicted class of each utterance, `[n]`.
        num_classes: Number of classes of the task.

    Returns:
        A number in [0, 1]; chance is 1 / num_classes.

    Raises:
        ValueError: If a label lies outside 0 .. num_classes - 1.

    Example:
        >>> uar(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)
        0.75
        >>> uar(np.array([0, 0, 1]), np.array([0, 1, 1]), 4)
        0.375
    """
    return float(recall(truth, prediction, num_classes).mean())


def wa(truth: Int[Array, " n"], prediction: Int[Array, " n"]) -> float:
    """Compute the weighted accuracy: the share of utterances classified correctly.

    The field's name for plain accuracy; "weighted" because it weighs each class by its size.

    Args:
        truth: True class of each utterance, `[n]`.
        prediction: Predicted class of each utterance, `[n]`.

    Returns:
        A number in [0, 1]; 0 for no utterances.

    Example:
        >>> wa(np.array([0, 0, 1]), np.array([0, 1, 1]))  # doctest: +ELLIPSIS
        0.666...
    """
    return float(np.mean(np.asarray(truth) == np.asarray(prediction))) if len(truth) else 0.0
