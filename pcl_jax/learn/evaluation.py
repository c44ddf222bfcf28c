"""Evaluation within the labels there are: speakers left out, the recipe beside the best simple probe."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import softmax

from pcl_jax.evaluation.calibration import brier, calibration_error, fit_temperature
from pcl_jax.evaluation.intervals import interval, of_other_speakers, uar_draws
from pcl_jax.evaluation.metrics import confusion, recall
from pcl_jax.learn.steps import Steps
from pcl_jax.rng import seeded
from pcl_jax.training import recipe
from pcl_jax.training.classifier import Trained
from pcl_jax.training.cross_fit import Fit, Vectors, assign_folds, classes_with_test, cross_fit, label_subset

CURVE = (0.25, 0.5)
"""Shares of the labels at which the label curve is measured, besides all."""
CURVE_DRAWS = 2
"""Random subsets for each of these shares."""
STEPS = 2 + len(CURVE) * CURVE_DRAWS
"""Cross-fittings of an evaluation."""
FEWEST_FOR_CURVE = 20
"""Labels below which a label curve says nothing."""


@dataclass(frozen=True)
class Data:
    """Everything that a classifier learns from, as arrays."""

    vectors: Vectors
    labels: Int[np.ndarray, " n"]
    """Class of each utterance; -1 without a label."""
    speakers: Sequence[str]
    classes: tuple[str, ...]
    kinds: Mapping[str, str] = field(default_factory=dict)
    """Kind of each view (`View.kind`): methods expect more of a speech model's states than of others."""

    @property
    def labelled(self) -> Bool[np.ndarray, " n"]:
        """Which utterances have a label."""
        return self.labels >= 0


class Estimate(NamedTuple):
    """A UAR with the 95 % interval of as many other speakers; None where the labels allow no estimate."""

    uar: float | None
    low: float | None
    high: float | None


class Point(NamedTuple):
    """One point of the label curve."""

    n_labelled: int
    """Labels that training saw, on average over folds and draws."""
    estimate: Estimate


@dataclass(frozen=True)
class Evaluation:
    """Result of the cross-validation of a classifier."""

    recipe: Estimate
    baseline: Estimate
    curve: tuple[Point, ...]
    gain: tuple[float, float] | None
    """Bounds of the UAR that as many labels again would add; None: it cannot be said."""
    recall: tuple[float | None, ...]
    """Recall of each class; None where it cannot be tested."""
    confusion: Int[np.ndarray, "c c"]
    temperature: float
    """Factor on the classifier's own temperature, fitted on cross-fitted predictions."""
    calibration_error: float
    """Calibration error of cross-fitted predictions, each with the temperature of the other folds."""
    brier: float
    untestable: tuple[str, ...]
    """Classes whose labels all lie in one fold."""
    folds: int


def evaluate(
    data: Data, seed: int, steps: Steps, *, method: Callable[..., Trained] | None = None, curve: bool = True
) -> Evaluation:
    """Cross-fit the recipe and the baseline, and the recipe on subsets of the labels.

    Args:
        data: Vectors, labels, speakers.
        seed: Names every random draw.
        steps: Keeps the predictions of every fold.
        method: The method; None: the recipe.
        curve: Whether to measure the label curve too, which is four of six cross-fittings.
    """
    count = len(data.classes)
    folds = assign_folds(data.labels, data.speakers)
    can = classes_with_test(data.labels, folds, count)

    def fitted(name: str, fit: Fit, known: Bool[np.ndarray, " n"] | None = None) -> np.ndarray:
        return cross_fit(
            fit,
            data.vectors,
            data.labels,
            data.speakers,
            count,
            folds,
            known=known,
            seed=seed,
            do=lambda fold, step: steps.do(f"{name}-{fold}", step),
        )

    best, simple = (partial(fit, kinds=data.kinds) for fit in (method or recipe.recipe, recipe.probe))
    found = {"recipe": fitted("recipe", best), "baseline": fitted("baseline", simple)}
    subsets = _subsets(data, seed) if curve else {}
    for name, known in subsets.items():
        found[name] = fitted(name, best, known)
    rows = data.labelled
    truth = data.labels[rows]
    predictions = {name: scores[rows].argmax(axis=1) for name, scores in found.items()}
    owners = [speaker for speaker, row in zip(data.speakers, rows, strict=True) if row]
    rng = seeded(seed, "interval")
    draws = dict(zip(found, uar_draws(truth, list(predictions.values()), owners, count, rng), strict=True))
    speakers = len(set(owners))
    estimate = partial(_estimate, truth, predictions, draws, count, speakers=speakers, whole=bool(can.all()))
    scores, honest = found["recipe"][rows], _cross_calibrated(found["recipe"][rows], truth, folds[rows])
    recalls = recall(truth, predictions["recipe"], count)
    number = len(np.unique(folds[folds >= 0]))
    return Evaluation(
        recipe=estimate(["recipe"]),
        baseline=estimate(["baseline"]),
        curve=_curve(data, subsets, estimate, number) if can.all() else (),
        gain=_gain(data, subsets, draws, speakers) if can.all() else None,
        recall=tuple(float(value) if ok else None for value, ok in zip(recalls, can, strict=True)),
        confusion=confusion(truth, predictions["recipe"], count),
        temperature=fit_temperature(scores, truth) if can.all() else 1.0,
        calibration_error=calibration_error(honest, truth),
        brier=brier(honest, truth),
        untestable=tuple(name for name, ok in zip(data.classes, can, strict=True) if not ok),
        folds=number,
    )


def _subsets(data: Data, seed: int) -> dict[str, Bool[np.ndarray, " n"]]:
    if data.labelled.sum() < FEWEST_FOR_CURVE:
        return {}
    return {
        f"curve-{share}-{draw}": label_subset(data.labels, share, draw, seed)
        for share in CURVE
        for draw in range(CURVE_DRAWS)
    }


def _estimate(
    truth: Int[np.ndarray, " n"],
    predictions: Mapping[str, np.ndarray],
    draws: Mapping[str, np.ndarray],
    count: int,
    names: Sequence[str],
    *,
    speakers: int,
    whole: bool,
) -> Estimate:
    """Return the mean UAR of classifiers with its interval; none unless every class can be tested."""
    if not whole:
        return Estimate(None, None, None)
    value = float(np.mean([recall(truth, predictions[name], count).mean() for name in names]))
    mean = np.mean([draws[name] for name in names], axis=0)
    low, high = interval(of_other_speakers(mean), speakers)
    return Estimate(value, float(min(low, value)), float(max(high, value)))


def _curve(
    data: Data, subsets: Mapping[str, np.ndarray], estimate: partial[Estimate], folds: int
) -> tuple[Point, ...]:
    share = (folds - 1) / folds
    points = []
    for fraction in CURVE if subsets else ():
        names = [name for name in subsets if name.startswith(f"curve-{fraction}-")]
        points.append(Point(round(share * subsets[names[0]].sum()), estimate(names)))
    return (*points, Point(round(share * data.labelled.sum()), estimate(["recipe"])))


def _gain(
    data: Data, subsets: Mapping[str, np.ndarray], draws: Mapping[str, np.ndarray], speakers: int
) -> tuple[float, float] | None:
    """Return bounds of the gain of twice the labels: the slope of UAR over their logarithm, bootstrapped."""
    if not subsets:
        return None
    x = np.log2([*(known.sum() for known in subsets.values()), data.labelled.sum()])
    y = np.stack([*(draws[name] for name in subsets), draws["recipe"]])
    centred = x - x.mean()
    slopes = centred @ (y - y.mean(axis=0)) / (centred @ centred)
    return interval(slopes, speakers)


def _cross_calibrated(
    scores: Float[np.ndarray, "n c"], truth: Int[np.ndarray, " n"], folds: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "n c"]:
    """Return probabilities, those of each fold with the temperature fitted on the other folds."""
    found = np.zeros_like(scores)
    for fold in np.unique(folds):
        held_out = folds == fold
        temperature = fit_temperature(scores[~held_out], truth[~held_out])
        found[held_out] = softmax(scores[held_out] / temperature, axis=1)
    return found
