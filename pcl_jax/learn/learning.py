"""Learning: vectors and a few labels -> evaluation, the refitted model, and everything in its folder."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from pcl_jax.corpora.spelling import lookalikes
from pcl_jax.corpora.utterance import Corpus, CorpusError, Utterance
from pcl_jax.features.store import Store
from pcl_jax.inference import reach
from pcl_jax.inference.model import Model, views_of
from pcl_jax.inference.model_folder import CARD, CONFIG, WEIGHTS, ModelError, save_model
from pcl_jax.inference.predict import RESERVED
from pcl_jax.learn import report as reports
from pcl_jax.learn.claims import limits
from pcl_jax.learn.evaluation import Data, evaluate
from pcl_jax.learn.steps import Steps
from pcl_jax.rng import seeded
from pcl_jax.runs.files import remove_strays, write_atomically
from pcl_jax.training import recipe
from pcl_jax.training.classifier import Trained
from pcl_jax.views.view import View

STEPS = ".learn"
"""Folder of finished steps, within the model folder, until the model is written."""
REPORTS = ("report.html", "report.json", "report.md")
VERSION = 1
"""Version of the evaluation: raised when a change changes a result."""


def choose_clips(corpus: Corpus, most_unlabelled: int, seed: int) -> tuple[Corpus, str]:
    """Return the corpus with at most so many unlabelled clips, drawn at random; a remark says so.

    Raises:
        CorpusError: Fewer than two classes have labels, or a class has the name of a column of predictions.
    """
    labels = [corpus.label(u) for u in corpus.utterances]
    counts = Counter(corpus.classes[label] for label in labels if label is not None)
    present = list(counts)
    if len(present) < 2:
        raise CorpusError(
            f"{corpus.name} has labels of {len(present)} classes ({', '.join(present) or 'none'}): label "
            "clips of two classes or more"
        )
    if lacking := sorted(set(corpus.classes) - set(present)):
        raise CorpusError(f"no clip that can be used is {lacking[0]!r}; leave the class out with --targets")
    if taken := sorted(set(present) & set(RESERVED)):
        raise CorpusError(f"a class has the name {taken[0]!r}, which is a column of predictions: rename it")
    unlabelled = [place for place, label in enumerate(labels) if label is None]
    if len(unlabelled) <= most_unlabelled:
        return corpus, ""
    kept = set(seeded(seed, "unlabelled clips").permutation(unlabelled)[:most_unlabelled].tolist())
    chosen = tuple(
        u for place, u in enumerate(corpus.utterances) if labels[place] is not None or place in kept
    )
    remark = f"{most_unlabelled} of {len(unlabelled)} unlabelled clips are used, drawn at random"
    return replace(corpus, utterances=chosen), remark


def data_of(corpus: Corpus, stores: Mapping[str, Store], views: Mapping[str, View]) -> Data:
    """Return vectors, labels and speakers of a corpus; rows are joined by utterance id.

    Args:
        corpus: Its utterances have vectors.
        stores: View -> its vectors, as `VectorView` stores them.
        views: The views, of which the vectors are.
    """
    labels = [corpus.label(u) for u in corpus.utterances]
    return Data(
        {view: np.stack([stored[u.id] for u in corpus.utterances]) for view, stored in stores.items()},
        np.array([-1 if label is None else label for label in labels]),
        persons(corpus.utterances),
        corpus.classes,
        {name: view.kind for name, view in views.items()},
    )


def persons(utterances: Sequence[Utterance]) -> list[str]:
    """Return the speaker of each utterance; names that differ in case or leading zeros are one person."""
    same = {name: group[0] for group in lookalikes(u.speaker for u in utterances) for name in group}
    return [same.get(u.speaker, u.speaker) for u in utterances]


def require_place(folder: Path) -> None:
    """Raise ModelError if a model cannot be written there: a file, or a folder with something else in it."""
    if folder.exists() and not folder.is_dir():
        raise ModelError(f"--out {folder} is a file; give a folder for the model")
    if not folder.is_dir() or (folder / CONFIG).is_file():
        return
    if others := sorted({path.name for path in folder.iterdir()} - {WEIGHTS, CARD, *REPORTS, STEPS}):
        if all(name.startswith(".") for name in others):  # left by a kill in the middle of a write
            return
        raise ModelError(f"--out {folder} holds {others[0]!r}; give a new folder, or that of a model")


def learn(
    data: Data,
    views: Mapping[str, View],
    folder: Path,
    *,
    seed: int = 0,
    facts: Mapping[str, Any] | None = None,
    synthetic: bool = False,
    finished: Callable[[int], None] = lambda _: None,
    method: Callable[..., Trained] | None = None,
    curve: bool = True,
) -> dict[str, Any]:
    """Evaluate the recipe within the labels, refit it on all of them, write the model folder and the report.

    A call that is killed goes on where it was, and ends with the same bytes.

    Args:
        data: Vectors, labels and speakers.
        views: Views that the vectors are of; those that the model needs are in its folder.
        folder: Model folder.
        seed: Names every random draw.
        facts: Facts for the report and the model: corpus, digests.
        synthetic: Whether the speech is synthetic.
        finished: Called with the number of finished steps.
        method: The method; None: the recipe.
        curve: Whether to measure the label curve, which is two thirds of the time.

    Returns:
        The report, JSON types.
    """
    facts = dict(facts or {})
    identity = _identity(data, seed)
    require_place(folder)
    (folder / STEPS).mkdir(parents=True, exist_ok=True)
    steps = Steps(folder / STEPS, identity, finished)
    evaluation = evaluate(data, seed, steps, method=method, curve=curve)
    trained = (method or recipe.recipe)(
        data.vectors, data.labels, list(data.speakers), len(data.classes), kinds=data.kinds, seed=seed
    )
    trained = _calibrated(trained, evaluation.temperature)
    report = reports.summarise(
        data,
        evaluation,
        trained.choice or {},
        limits(data, evaluation, trained.normalise, synthetic=synthetic),
        facts | {"data": identity},
    )
    _write(folder, data, views, trained, report)
    steps.forget()
    return report


def _calibrated(trained: Trained, temperature: float) -> Trained:
    """Return a classifier, and the one that it falls back to, with logits divided by a temperature."""
    fallback = trained.fallback and _calibrated(trained.fallback, temperature)
    return replace(trained, temperature=trained.temperature * temperature, fallback=fallback)


def _write(
    folder: Path, data: Data, views: Mapping[str, View], trained: Trained, report: dict[str, Any]
) -> None:
    used = {name: rows for name, rows in data.vectors.items() if name in views_of(trained)}
    needed = {name: view for name, view in views.items() if name in used}
    model = Model(data.classes, needed, trained, reach.fit(used), {"learned": report})
    for name in (*REPORTS, CARD, WEIGHTS, CONFIG):
        remove_strays(folder / name)
    text = json.dumps(report, indent=1, sort_keys=True) + "\n"
    for name, content in zip(REPORTS, (reports.page(report), text, reports.markdown(report)), strict=True):
        write_atomically(folder / name, content.encode())
    save_model(folder, model, reports.card(report, folder.name))


def _identity(data: Data, seed: int) -> str:
    """Return a digest of everything that changes the result."""
    facts = [VERSION, version("pcl-jax"), seed, list(data.speakers), list(data.classes), dict(data.kinds)]
    total = hashlib.sha256(json.dumps(facts).encode())
    total.update(np.ascontiguousarray(data.labels).tobytes())
    for view in sorted(data.vectors):
        total.update(view.encode())
        total.update(np.ascontiguousarray(data.vectors[view]).tobytes())
    return total.hexdigest()[:16]
