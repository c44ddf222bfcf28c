"""Methods for few labels: probe, fusion, co-training, and the recipe that chooses among them.

Arrays in, parameters out; every choice is made within the labels that are given. `probe` is what a careful
user of any toolkit has: the best single view. `recipe` leaves it for co-training, and the statistics of the
fold for those of each speaker, unless the labels speak against it. Priors from the evidence decide while
labels are too few to tell (docs/few_labels.md).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import entr, log_softmax

from pcl_jax.models.fusion import fuse
from pcl_jax.models.readout import Readout
from pcl_jax.training import readout
from pcl_jax.training.classifier import Normalise, Trained, Vectors
from pcl_jax.training.co_training import UNLABELLED, UNUSED, co_train, teachers
from pcl_jax.training.competence import (
    GROUPS,
    Competence,
    competence,
    counted,
    cross_validate,
    log_odds,
    speaker_groups,
)
from pcl_jax.training.pool import Pool

GAIN, GAIN_DEVIATION = 0.04, 0.06
"""Prior of the accuracy that co-training gains over the best single view: mean, standard deviation."""
SPEAKER_GAIN, SPEAKER_DEVIATION = 0.06, 0.06
"""Prior of the accuracy that normalisation by speaker gains where speakers have enough audio, else loses."""
ENOUGH_UTTERANCES = 20
"""Utterances of the median speaker below which normalisation by speaker is expected to lose: a mean of few
utterances, of which most can have one emotion, takes the emotion away with the voice."""
MOST_CONCENTRATED = 0.4
"""Share of the predicted classes' entropy that the speaker explains, above which speakers seem to have one
emotion each. It was 0.01 to 0.28 where speakers act all emotions, 0.42 to 0.53 where most utterances of a
speaker have one emotion."""


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


class _Task(NamedTuple):
    """The utterances that a method reads, under one normalisation."""

    normalise: Normalise
    x: Vectors
    """Standardised vectors."""
    mean: Mapping[str, Float[np.ndarray, " d"]]
    scale: Mapping[str, Float[np.ndarray, " d"]]
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
    labels = np.asarray(labels)
    if not (labels >= 0).any():
        raise ValueError("no utterance has a label; give one of each class at least")
    pool = vectors if isinstance(vectors, Pool) else Pool(vectors, speakers)
    rows = pool.rows(labels, seed)

    def task(normalise: Normalise) -> _Task:
        x, mean, scale = pool.standardised(normalise)
        return _Task(
            normalise,
            {view: values[rows] for view, values in x.items()},
            mean,
            scale,
            pool.grams(normalise, rows),
            labels[rows],
            pool.speakers[rows],
            classes,
            tuple((kinds or {}).get(view, "vector") for view in pool),
        )

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
    duals: readout.Dual
    """Readouts fitted without each part, and last on all labels, `[k, g + 1, p, c]`, over the padded rows."""


def _validate(task: _Task) -> _Validated:
    rows = task.labelled
    labels, groups = task.labels[rows], speaker_groups(task.speakers[rows].tolist())
    usable = counted(labels, groups)
    fitted, scores = cross_validate(task.grams[:, rows][:, :, rows], labels, groups, task.classes)
    alpha = np.zeros((*fitted.alpha.shape[:2], task.grams.shape[1], task.classes), np.float32)
    alpha[:, :, rows] = fitted.alpha
    duals = readout.Dual(alpha, np.asarray(fitted.bias))
    return _Validated(groups, usable, scores, _competence(scores, task, usable), duals)


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
    found = _co_train_all(
        task.grams, labels, advice, jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), validated.duals)
    )
    dual, own, without = jax.tree.map(np.asarray, found)
    held_out = without[validated.groups, :, rows].transpose(1, 0, 2)
    after = _competence(held_out, task, validated.counted)
    fused = (np.asarray(fuse(scores, after.best)) for scores in (own[:, :count], held_out))
    return _CoTrained(dual, after.best, *fused)


@jax.jit
def _co_train_all(grams, labels, advice, start):
    """Return the readouts of all labels, their scores, and the scores without each part.

    Readouts without a part are only compared with each other: rough ones will do.
    """

    def train(row, dual, last):
        return co_train(grams, row, advice, dual, last=last)

    def score(dual):
        return jax.nn.log_softmax(readout.logits(dual, grams))

    starts = jax.tree.map(lambda leaf: leaf[:-1], start)
    without = jax.vmap(lambda row, dual: score(train(row, dual, readout.ROUGH)))(labels[:-1], starts)
    dual = train(labels[-1], jax.tree.map(lambda leaf: leaf[-1], start), readout.EXACT)
    return dual, score(dual), without


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
    return _trained(task, _plain(validated), {view: 1.0}, validated, scores, {"method": "probe"})


def fusion(vectors, labels, speakers, classes, *, kinds=None, seed=0) -> Trained:
    """Return the readouts of all views, each weighted by the probability that it is the most accurate one."""
    task = _tasks(vectors, labels, speakers, classes, kinds, seed)("fold")
    validated = _validate(task)
    scores = np.asarray(fuse(validated.scores, validated.competence.best))
    return _trained(
        task,
        _plain(validated),
        _shares(task, validated.competence.best),
        validated,
        scores,
        {"method": "fusion"},
    )


def co_training(vectors, labels, speakers, classes, *, kinds=None, seed=0) -> Trained:
    """Return co-trained readouts of all views, fused as by `fusion`."""
    task = _tasks(vectors, labels, speakers, classes, kinds, seed)("fold")
    validated = _validate(task)
    return _co_trained(task, validated, _co_train(task, validated), {})


def _co_trained(task: _Task, validated: _Validated, found: _CoTrained, choice: Mapping[str, Any]) -> Trained:
    facts = {"method": "co-training"} | dict(choice)
    return _trained(task, found.dual, _shares(task, found.weights), validated, found.held_out, facts)


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
    general = _co_trained(fold, validated, joint, choice)
    if by_own <= 0:
        return general
    return replace(_co_trained(own, own_validated, own_joint, choice), fallback=general)


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


def _plain(validated: _Validated) -> readout.Dual:
    """Return the readout of each view, fitted on all labels."""
    return jax.tree.map(lambda leaf: leaf[:, -1], validated.duals)


def _shares(task: _Task, weights: Float[np.ndarray, " k"]) -> dict[str, float]:
    return dict(zip(task.x, weights.tolist(), strict=True))


def _trained(
    task: _Task,
    dual: readout.Dual,
    weights: Mapping[str, float],
    validated: _Validated,
    scores: Float[np.ndarray, "l c"],
    choice: Mapping[str, Any],
) -> Trained:
    """Return the classifier with primal weights, and its temperature by the held-out scores."""
    readouts = {}
    for view, (name, x) in enumerate(task.x.items()):
        if weights.get(name, 0.0) > 0:
            weight, bias = x.T @ dual.alpha[view, : len(x)], dual.bias[view]
            readouts[name] = Readout(task.mean[name], task.scale[name], weight, bias)
    truth, usable = task.labels[task.labelled], validated.counted
    accuracies = zip(task.x, validated.competence.accuracy.tolist(), strict=True)
    facts = {
        "expected accuracy": {name: round(value, 4) for name, value in accuracies},
        "utterances in the cross-validation": int(usable.sum()),
    }
    temperature = fit_temperature(scores[usable], truth[usable])
    kept = {name: weights[name] for name in readouts}
    return Trained(readouts, kept, task.classes, task.normalise, temperature, dict(choice) | facts)
