"""Methods for few labels: probe, fusion, co-training, and the recipe that chooses among them.

Arrays in, parameters out; every choice is made within the labels that are given. `probe` is what a careful
user of any toolkit has: the best single view. `recipe` leaves it for co-training, and the statistics of the
fold for those of each speaker, unless the labels speak against it. Priors from the evidence decide while
labels are too few to tell (docs/few_labels.md).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import entr, log_softmax

from pcl_jax.models.fusion import fuse
from pcl_jax.models.readout import Readout, log_probabilities
from pcl_jax.rng import seeded
from pcl_jax.training import readout
from pcl_jax.training.co_training import PENALTY, UNLABELLED, UNUSED, co_train, teachers
from pcl_jax.training.competence import (
    GROUPS,
    Competence,
    competence,
    counted,
    cross_validate,
    log_odds,
    speaker_groups,
)

Vectors = Mapping[str, Float[np.ndarray, "n d"]]
"""View -> one row per utterance (`pcl_jax.data.vectors.pool`)."""
Normalise = Literal["fold", "speaker"]

MOST_UNLABELLED = 2000
"""Unlabelled utterances that take part, drawn at random where there are more: time grows with the square."""
ROWS = 128
"""Utterances are padded to a multiple, so that folds of similar sizes share their programs."""

GAIN, GAIN_DEVIATION = 0.04, 0.06
"""Prior of the accuracy that co-training gains over the best single view: mean, standard deviation."""
SPEAKER_GAIN, SPEAKER_DEVIATION = 0.06, 0.06
"""Prior of the accuracy that normalisation by speaker gains where speakers have enough audio, else loses."""
ENOUGH_UTTERANCES = 20
"""Utterances of the median speaker below which normalisation by speaker is expected to lose: a mean of few
utterances, of which most can have one emotion, takes the emotion away with the voice."""
MOST_CONCENTRATED = 0.35
"""Share of the predicted classes' entropy that the speaker explains, above which speakers seem to have one
emotion each. It was 0.01 to 0.28 where speakers act all emotions, 0.42 to 0.53 where most utterances of a
speaker have one emotion."""
LEAST_TO_NORMALISE = 8
"""Utterances of a speaker below which `predict` does not normalise by speaker."""


@dataclass(frozen=True)
class Trained:
    """A classifier over the vectors of several views, and how it was chosen."""

    readouts: Mapping[str, Readout]
    """Readout of each view that takes part."""
    weights: Mapping[str, float]
    """Weight of each of these views in the fusion."""
    classes: int
    normalise: Normalise = "fold"
    """Whether vectors are first normalised within each speaker's utterances."""
    temperature: float = 1.0
    """Logits are divided by it; fitted on cross-validated predictions within the labels."""
    choice: Mapping[str, Any] | None = None
    """The choice and the findings of the cross-validation, as JSON types."""
    fallback: "Trained | None" = None
    """The classifier for utterances of unknown speakers, where this one normalises by speaker."""


class Method(Protocol):
    """A method of this module."""

    def __call__(
        self,
        vectors: Vectors,
        labels: Int[np.ndarray, " n"],
        speakers: Sequence[str],
        classes: int,
        *,
        kinds: Mapping[str, str] | None = None,
        seed: int = 0,
    ) -> Trained:
        """Train a classifier.

        Args:
            vectors: View -> one row per utterance, labelled or not.
            labels: Class of each utterance; -1 without a label.
            speakers: Speaker of each utterance.
            classes: Number of classes.
            kinds: Kind of each view (`View.kind`), "vector" where it is left out.
            seed: Seed of the draw of unlabelled utterances, where there are too many.

        Raises:
            ValueError: No utterance has a label.
        """
        ...


def predict(
    trained: Trained, vectors: Vectors, speakers: Sequence[str] | None = None
) -> Float[np.ndarray, "n c"]:
    """Return log-probabilities of utterances.

    Args:
        trained: The classifier.
        vectors: View -> one row per utterance.
        speakers: Speaker of each utterance. A classifier that normalises by speaker needs all utterances of a
            speaker in one call; its `fallback` predicts those of speakers with fewer than
            `LEAST_TO_NORMALISE` utterances, and all where no speakers are given.
    """
    if trained.normalise == "speaker":
        assert trained.fallback is not None
        found = predict(trained.fallback, vectors)
        if speakers is None:
            return found
        enough = _utterances_of_speaker(speakers) >= LEAST_TO_NORMALISE
        if enough.any():
            names = np.asarray(speakers)[enough]
            normalised = {view: by_speaker(rows[enough], names.tolist()) for view, rows in vectors.items()}
            found[enough] = _predict(trained, normalised)
        return found
    return _predict(trained, vectors)


def _predict(trained: Trained, vectors: Vectors) -> Float[np.ndarray, "n c"]:
    views = list(trained.readouts)
    scores = jnp.stack([log_probabilities(trained.readouts[view], vectors[view]) for view in views])
    fused = fuse(scores, jnp.array([trained.weights[view] for view in views]))
    return np.array(jax.nn.log_softmax(fused / trained.temperature))


def _utterances_of_speaker(speakers: Sequence[str]) -> Int[np.ndarray, " n"]:
    _, which, counts = np.unique(np.asarray(speakers), return_inverse=True, return_counts=True)
    return counts[which]


def by_speaker(vectors: Float[np.ndarray, "n d"], speakers: Sequence[str]) -> Float[np.ndarray, "n d"]:
    """Return vectors with mean 0 and deviation 1 within each speaker's rows."""
    normalised, names = np.empty_like(vectors), np.asarray(speakers)
    for name in np.unique(names):
        centred, scale = _moments(vectors[names == name])
        normalised[names == name] = (vectors[names == name] - centred) / scale
    return normalised


def _moments(rows: Float[np.ndarray, "n d"]) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    """Return mean and deviation of the finite values of each column, deviation 1 for a constant."""
    finite = np.isfinite(rows)
    count = np.maximum(finite.sum(axis=0), 1)
    mean = np.where(finite, rows, 0.0).sum(axis=0, dtype=np.float64) / count
    square = (np.where(finite, rows - mean, 0.0) ** 2).sum(axis=0) / count
    scale = np.sqrt(square)
    return mean, np.where(scale > 1e-6 * np.maximum(np.abs(mean), 1e-6), scale, 1.0)


class _Task(NamedTuple):
    """The utterances that a method reads, under one normalisation."""

    x: Vectors
    """Standardised vectors of squared norm about 1."""
    moments: Mapping[str, tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]]
    grams: Float[np.ndarray, "k p p"]
    """Inner products, padded with zeros."""
    labels: Int[np.ndarray, " n"]
    speakers: np.ndarray
    classes: int
    kinds: tuple[str, ...]
    """Kind of each view."""

    @property
    def labelled(self) -> Int[np.ndarray, " l"]:
        """Rows with a label."""
        return np.flatnonzero(self.labels >= 0)


def _tasks(
    vectors: Vectors,
    labels: Int[np.ndarray, " n"],
    speakers: Sequence[str],
    classes: int,
    kinds: Mapping[str, str] | None,
    seed: int,
) -> Callable[[Normalise], _Task]:
    """Return a function from a normalisation to the task."""
    labels, names = np.asarray(labels), np.asarray(speakers)
    if not (labels >= 0).any():
        raise ValueError("no utterance has a label; give one of each class at least")
    free = np.flatnonzero(labels < 0)
    if len(free) > MOST_UNLABELLED:
        free = seeded(seed, "unlabelled").choice(free, MOST_UNLABELLED, replace=False)
    rows = np.sort(np.concatenate([np.flatnonzero(labels >= 0), free]))
    padded = -(-len(rows) // ROWS) * ROWS

    def task(normalise: Normalise) -> _Task:
        x, moments, grams = {}, {}, np.zeros((len(vectors), padded, padded), np.float32)
        for view, (name, values) in enumerate(vectors.items()):
            if normalise == "speaker":
                values = by_speaker(values, names.tolist())
            mean, scale = _moments(values)
            scale = scale * np.sqrt(values.shape[1])
            moments[name] = mean, scale
            x[name] = np.nan_to_num((values[rows] - mean) / scale, posinf=0, neginf=0).astype(np.float32)
            grams[view, : len(rows), : len(rows)] = x[name] @ x[name].T
        by_view = tuple((kinds or {}).get(view, "vector") for view in vectors)
        return _Task(x, moments, grams, labels[rows], names[rows], classes, by_view)

    return task


class _Validated(NamedTuple):
    """Cross-validation of the views within the labels."""

    groups: Int[np.ndarray, " l"]
    """Part of each labelled utterance; speakers are never divided."""
    counted: Bool[np.ndarray, " l"]
    """Whether the other parts hold its class."""
    scores: Float[np.ndarray, "k l c"]
    """Log-probabilities by the readout of each view, fitted on the other parts."""
    competence: Competence


def _validate(task: _Task) -> _Validated:
    rows = task.labelled
    labels, groups = task.labels[rows], speaker_groups(task.speakers[rows].tolist())
    usable = counted(labels, groups)
    scores = cross_validate(task.grams[:, rows][:, :, rows], labels, groups, task.classes)
    return _Validated(groups, usable, scores, _competence(scores, task, usable))


def _competence(
    scores: Float[np.ndarray, "k l c"], task: _Task, usable: Bool[np.ndarray, " l"]
) -> Competence:
    hits = (scores.argmax(axis=2) == task.labels[task.labelled])[:, usable].sum(axis=1)
    return competence(hits, int(usable.sum()), task.kinds, task.classes)


class _CoTrained(NamedTuple):
    """Readouts of all views, trained together."""

    dual: readout.Dual
    """The readout of each view, over the padded rows."""
    weights: Float[np.ndarray, " k"]
    """Probability that each view is the most accurate one, once it has been taught."""
    scores: Float[np.ndarray, "n c"]
    """Fused log-probabilities of every row."""
    held_out: Float[np.ndarray, "l c"]
    """The same for each labelled utterance, by readouts that have not heard the speakers of its part."""


def _co_train(task: _Task, validated: _Validated) -> _CoTrained:
    """Co-train on all rows, and without the speakers of each part, as one program."""
    rows, count = task.labelled, len(task.labels)
    part = dict(zip(task.speakers[rows].tolist(), validated.groups.tolist(), strict=True))
    of_row = np.array([part.get(name, -1) for name in task.speakers.tolist()])
    labels = np.full((GROUPS + 1, task.grams.shape[1]), UNUSED)
    labels[:, :count] = np.where(task.labels < 0, UNLABELLED, task.labels)
    for group in range(GROUPS):
        labels[group, :count][of_row == group] = UNUSED
    advice = teachers(log_odds(validated.competence.accuracy, task.classes)).astype(np.float32)
    duals, scores = jax.tree.map(np.asarray, _co_train_all(task.grams, labels, advice, task.classes))
    held_out = scores[validated.groups, :, rows].transpose(1, 0, 2)
    after = _competence(held_out, task, validated.counted)
    return _CoTrained(
        jax.tree.map(lambda leaf: leaf[-1], duals),
        after.best,
        np.asarray(fuse(scores[-1, :, :count], after.best)),
        np.asarray(fuse(held_out, after.best)),
    )


@partial(jax.jit, static_argnames="classes")
def _co_train_all(grams, labels, advice, classes):
    duals = jax.vmap(lambda row: co_train(grams, row, advice, classes=classes))(labels)
    scores = jax.vmap(lambda dual: jax.nn.log_softmax(readout.logits(dual, grams)))(duals)
    return duals, scores


# Methods


def probe(vectors, labels, speakers, classes, *, kinds=None, seed=0) -> Trained:
    """Return the readout of the view that predicts the labels of left-out speakers best.

    Where views tie, and where there are too few labels to leave any out, a speech model goes first, then the
    views in the given order.
    """
    task = _tasks(vectors, labels, speakers, classes, kinds, seed)("fold")
    return _probe(task, _validate(task))


def _probe(task: _Task, validated: _Validated) -> Trained:
    best = int(validated.competence.accuracy.argmax())
    view = list(task.x)[best]
    scores = validated.scores[best]
    return _trained(task, _plain(task), {view: 1.0}, "fold", validated, scores, {"method": "probe"})


def fusion(vectors, labels, speakers, classes, *, kinds=None, seed=0) -> Trained:
    """Return the readouts of all views, each weighted by the probability that it is the most accurate one."""
    task = _tasks(vectors, labels, speakers, classes, kinds, seed)("fold")
    validated = _validate(task)
    scores = np.asarray(fuse(validated.scores, validated.competence.best))
    return _trained(
        task,
        _plain(task),
        _shares(task, validated.competence.best),
        "fold",
        validated,
        scores,
        {"method": "fusion"},
    )


def co_training(vectors, labels, speakers, classes, *, kinds=None, seed=0) -> Trained:
    """Return co-trained readouts of all views, fused as by `fusion`."""
    task = _tasks(vectors, labels, speakers, classes, kinds, seed)("fold")
    validated = _validate(task)
    return _co_trained(task, validated, _co_train(task, validated), "fold", {})


def _co_trained(
    task: _Task, validated: _Validated, found: _CoTrained, normalise: Normalise, choice: Mapping[str, Any]
) -> Trained:
    facts = {"method": "co-training"} | dict(choice)
    return _trained(
        task,
        found.dual,
        _shares(task, validated.competence.best),
        normalise,
        validated,
        found.held_out,
        facts,
    )


def recipe(vectors, labels, speakers, classes, *, kinds=None, seed=0) -> Trained:
    """Return the co-trained views, normalised by speaker where that is safe, or the best single view.

    Each choice weighs a prior, measured on EMO-DB and RAVDESS, against the difference that leave-speakers-out
    cross-validation within the labels sees (`posterior_gain`):

    - Normalisation by speaker gained 5 to 10 points of UAR where each speaker acts all emotions. It lost 7 to
      13 on RAVDESS cut down to 14 utterances of each speaker, 12 of them of one emotion. So the prior is a
      gain only where the median speaker has `ENOUGH_UTTERANCES` and predictions depend little on the speaker.
    - Co-training gained 5 to 15 points over the best single view on EMO-DB, where views are comparable, and
      none on RAVDESS, where one view dominates and is not taught.
    """
    tasks = _tasks(vectors, labels, speakers, classes, kinds, seed)
    fold = tasks("fold")
    validated = _validate(fold)
    simple, joint = _probe(fold, validated), _co_train(fold, validated)
    truth, usable = fold.labels[fold.labelled], validated.counted

    def hits(scores: Float[np.ndarray, "l c"]) -> Bool[np.ndarray, " _"]:
        return (scores.argmax(axis=1) == truth)[usable]

    own = tasks("speaker")
    own_validated = _validate(own)
    own_joint = _co_train(own, own_validated)
    median = float(np.median(np.unique(np.asarray(speakers), return_counts=True)[1]))
    share = concentration(joint.scores.argmax(axis=1), fold.speakers.tolist(), classes)
    safe = median >= ENOUGH_UTTERANCES and share <= MOST_CONCENTRATED
    prior = SPEAKER_GAIN if safe else -SPEAKER_GAIN
    by_own = posterior_gain(hits(joint.held_out), hits(own_joint.held_out), prior, SPEAKER_DEVIATION)
    kept = own_joint if by_own > 0 else joint
    best_view = int(validated.competence.accuracy.argmax())
    gain = posterior_gain(hits(validated.scores[best_view]), hits(kept.held_out), GAIN, GAIN_DEVIATION)
    choice = {
        "expected gain over the best single view": round(gain, 4),
        "expected gain of normalisation by speaker": round(by_own, 4),
        "utterances of the median speaker": median,
        "share of predictions explained by the speaker": round(share, 4),
    }
    if gain <= 0:
        return replace(simple, choice={**(simple.choice or {}), **choice})
    general = _co_trained(fold, validated, joint, "fold", choice)
    if by_own <= 0:
        return general
    return replace(_co_trained(own, own_validated, own_joint, "speaker", choice), fallback=general)


METHODS: Mapping[str, Method] = {
    "probe": probe,
    "fusion": fusion,
    "co-training": co_training,
    "recipe": recipe,
}
"""Methods by the names that tables use."""


def posterior_gain(
    before: Bool[np.ndarray, " l"], after: Bool[np.ndarray, " l"], prior: float, deviation: float
) -> float:
    """Return the posterior mean of a difference in accuracy, from hits on the same utterances.

    The prior is normal. The variance of the observed difference is that of a paired comparison, with one more
    discordant utterance than was seen: without any labels the prior stays.

    Example:
        >>> none, all = np.zeros(8, bool), np.ones(8, bool)
        >>> posterior_gain(none, none, 0.05, 0.06) > 0, posterior_gain(all, none, 0.02, 0.06) > 0
        (True, False)
    """
    difference = after.astype(float) - before.astype(float)
    count = len(difference)
    precision = count**2 / (np.square(difference).sum() + 1)
    mean = difference.mean() if count else 0.0
    return float((prior / deviation**2 + precision * mean) / (1 / deviation**2 + precision))


def concentration(predicted: Int[np.ndarray, " n"], speakers: Sequence[str], classes: int) -> float:
    """Return the mutual information of speaker and predicted class, as a share of the classes' entropy.

    Example:
        >>> concentration(np.array([0, 0, 1, 1]), ["ann", "ann", "bob", "bob"], 2)
        1.0
    """
    names, which = np.unique(np.asarray(speakers), return_inverse=True)
    joint = np.zeros((len(names), classes))
    np.add.at(joint, (which, predicted), 1 / len(predicted))
    entropy = float(entr(joint.sum(axis=0)).sum())
    shared = entropy + float(entr(joint.sum(axis=1)).sum() - entr(joint).sum())
    return round(shared / entropy, 12) if entropy > 0 else 0.0


def fit_temperature(scores: Float[np.ndarray, "l c"], truth: Int[np.ndarray, " l"]) -> float:
    """Return the temperature that makes held-out log-probabilities likely, close to 1 while they are few.

    The maximum a posteriori on a grid, with a prior of log-deviation 0.5 around 1 (Guo et al., 2017, without
    the prior).
    """
    grid = np.exp(np.linspace(-2, 2, 161))
    scaled = log_softmax(scores[None] / grid[:, None, None], axis=2)
    likelihood = np.maximum(scaled[:, np.arange(len(truth)), truth], -50).sum(axis=1)
    return float(grid[np.argmax(likelihood - np.log(grid) ** 2 / (2 * 0.5**2))])


def _plain(task: _Task) -> readout.Dual:
    """Return the readout of each view, fitted on all labels."""
    rows = task.labelled
    fitted = readout.fit_all(
        task.grams[:, rows][:, :, rows],
        task.labels[rows],
        np.ones((1, len(rows)), np.float32),
        task.classes,
        PENALTY,
    )
    alpha = np.zeros((*task.grams.shape[:2], task.classes), np.float32)
    alpha[:, rows] = fitted.alpha[:, 0]
    return readout.Dual(alpha, fitted.bias[:, 0])


def _shares(task: _Task, weights: Float[np.ndarray, " k"]) -> dict[str, float]:
    return dict(zip(task.x, weights.tolist(), strict=True))


def _trained(
    task: _Task,
    dual: readout.Dual,
    weights: Mapping[str, float],
    normalise: Normalise,
    validated: _Validated,
    scores: Float[np.ndarray, "l c"],
    choice: Mapping[str, Any],
) -> Trained:
    """Return the classifier with primal weights, and its temperature by the held-out scores."""
    readouts = {}
    for view, (name, x) in enumerate(task.x.items()):
        if weights.get(name, 0.0) > 0:
            mean, scale = (moment.astype(np.float32) for moment in task.moments[name])
            readouts[name] = Readout(mean, scale, x.T @ dual.alpha[view, : len(x)], dual.bias[view])
    truth, usable = task.labels[task.labelled], validated.counted
    accuracies = zip(task.x, validated.competence.accuracy.tolist(), strict=True)
    facts = {
        "expected accuracy": {name: round(value, 4) for name, value in accuracies},
        "utterances in the cross-validation": int(usable.sum()),
    }
    temperature = fit_temperature(scores[usable], truth[usable])
    kept = {name: weights[name] for name in readouts}
    return Trained(readouts, kept, task.classes, normalise, temperature, dict(choice) | facts)
