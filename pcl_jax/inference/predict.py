"""Prediction: clips -> probability of each class, in bounded memory, from where a kill stopped it."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from pcl_jax.audio import one_line
from pcl_jax.features.extract import Extraction, Plan, Progress, extract
from pcl_jax.features.store import Store
from pcl_jax.inference import reach
from pcl_jax.inference.clips import Clips, Recording, fault_of
from pcl_jax.inference.model import Model
from pcl_jax.training.classifier import LEAST_TO_NORMALISE

BATCH = 256
"""Clips whose vectors are in memory at once."""
MANY = 20
"""Clips from which on it is remarkable that nearly all get one class, or lie far from the training data."""
NEARLY_ALL = 0.95
FAR_SHARE = 0.5
UNKNOWN = "unknown"
"""Prediction of a clip whose confidence is below that asked for."""
RESERVED = ("file", "start", "end", "prediction", "confidence")
"""Columns of a table of predictions that no class may have the name of."""


class Predictions(NamedTuple):
    """The probabilities of clips, and what their reader must know."""

    rows: tuple[int, ...]
    """Numbers of the clips that have a prediction, in order."""
    probabilities: Float[np.ndarray, "n c"]
    faults: tuple[str, ...]
    """Recordings without any prediction, one line each."""
    remarks: tuple[str, ...]


def compute_vectors(
    model: Model,
    clips: Clips,
    work: Path,
    *,
    workers: int | None = None,
    announce: Callable[[Plan], None] | None = None,
    progress: Progress | None = None,
) -> Extraction:
    """Compute the vectors of clips into a folder; what is there already is not computed again.

    Args:
        model: Its views are computed.
        clips: Clips to predict on.
        work: Folder of the vectors.
        workers: Processes; None: all CPUs.
        announce: Called with the plan before anything is computed.
        progress: Called after every clip.
    """
    views = list(model.vector_views.values())
    return extract(
        clips.corpus,
        views,
        work,
        workers=workers,
        on_bad_audio="skip",
        announce=announce,
        progress=progress,
    )


def batches(
    model: Model, extraction: Extraction, numbers: Sequence[int], size: int = BATCH
) -> Iterator[tuple[Sequence[int], dict[str, np.ndarray]]]:
    """Yield numbers of clips and their vectors, view -> `[n, d]`, some at a time."""
    stores = {name: extraction.stores[view.name] for name, view in model.vector_views.items()}
    for start in range(0, len(numbers), size):
        part = numbers[start : start + size]
        yield part, {name: _rows(stored, part) for name, stored in stores.items()}


def _rows(stored: Store, numbers: Sequence[int]) -> np.ndarray:
    return np.stack([stored[f"{number:07d}"] for number in numbers])


def predict(model: Model, clips: Clips, extraction: Extraction) -> Predictions:
    """Predict the class of each clip whose vectors are there.

    A model that normalises per speaker sees the clips of a speaker together, where their number allows
    statistics. All others are predicted in batches, whose size changes nothing.
    """
    utterances = clips.corpus.utterances
    numbers = [int(u.id) for u in utterances if u.id not in extraction.skipped]
    found = np.zeros((len(utterances), len(model.classes)))
    far = np.zeros(len(utterances), bool)
    groups, remarks = _groups(model, clips, numbers)
    for speaker, members in groups.items():
        size = len(members) if speaker else BATCH
        for part, vectors in batches(model, extraction, members, max(size, 1)):
            speakers = [speaker] * len(part) if speaker else None
            found[list(part)] = np.exp(model.log_probabilities(vectors, speakers))
            far[list(part)] = reach.distances(model.reach, vectors) > model.reach.limit
    probabilities = found[numbers]
    bad, silent = faults(clips, extraction)
    remarks += [*silent, *_warnings(model, probabilities, far[numbers])]
    return Predictions(tuple(numbers), probabilities, bad, tuple(remarks))


def _groups(model: Model, clips: Clips, numbers: Sequence[int]) -> tuple[dict[str, list[int]], list[str]]:
    """Group clips by the speaker whose statistics normalise them; "" has those of nobody."""
    names = {number: clips.recordings[number].speaker for number in numbers}
    groups: dict[str, list[int]] = defaultdict(list)
    remarks = []
    counts = Counter(names.values())
    few = {name for name, count in counts.items() if name and count < LEAST_TO_NORMALISE}
    for number in numbers:
        known = model.normalises_speakers and names[number] not in few
        groups[names[number] if known else ""].append(number)
    if model.normalises_speakers and groups.get(""):
        remarks.append(
            f"the model was normalised per speaker; {len(groups[''])} of {len(numbers)} clips have no known "
            f"speaker with {LEAST_TO_NORMALISE} clips or more and are normalised by the statistics of the "
            "training data: expect less (--speaker COLUMN names who speaks)"
        )
    if any(names.values()) and not model.normalises_speakers:
        remarks.append("the model was not normalised per speaker: --speaker changes nothing")
    return dict(groups), remarks


def faults(clips: Clips, extraction: Extraction) -> tuple[tuple[str, ...], list[str]]:
    """Return recordings none of whose clips can be read, and remarks on those that have a few such clips."""
    sizes = Counter(clips.recordings)
    bad: dict[Recording, list[str]] = defaultdict(list)
    for id, error in sorted(extraction.skipped.items()):
        bad[clips.recordings[int(id)]].append(fault_of(error))
    whole, remarks = [], []
    for recording, reasons in bad.items():
        name, count = one_line(recording.name), sizes[recording]
        if len(reasons) == count:
            whole.append(f"{name}: {reasons[0]}" + (f" ({count} windows)" if count > 1 else ""))
        else:
            remarks.append(f"{name}: {len(reasons)} of {count} windows have no prediction: {reasons[0]}")
    return tuple(whole), remarks


def _warnings(
    model: Model, probabilities: Float[np.ndarray, "n c"], far: Bool[np.ndarray, " n"]
) -> list[str]:
    """Return warnings about predictions as a whole."""
    if len(probabilities) < MANY:
        return []
    found = []
    if far.mean() > FAR_SHARE:
        found.append(
            f"{far.mean():.0%} of the clips lie farther from the training data than {reach.QUANTILE:.0%} "
            "of it does: another kind of voice, room or microphone; do not trust these predictions "
            "before you have checked some"
        )
    shares = np.bincount(probabilities.argmax(axis=1), minlength=len(model.classes)) / len(probabilities)
    if shares.max() >= NEARLY_ALL:
        found.append(
            f"{shares.max():.0%} of the predictions are {model.classes[int(shares.argmax())]!r}: if that is "
            "not so, the model does not fit these recordings; label some of them and learn again"
        )
    return found


def table(
    model: Model, clips: Clips, predictions: Predictions, abstain: float | None = None
) -> dict[str, list[str] | np.ndarray]:
    """Return the columns of a table of predictions, but those of the index.

    Args:
        model: Names the classes.
        clips: Clips that were predicted.
        predictions: Their probabilities.
        abstain: Confidence below which the prediction is "unknown".
    """
    best = predictions.probabilities.argmax(axis=1) if len(predictions.rows) else np.zeros(0, int)
    confidence = predictions.probabilities[np.arange(len(best)), best] if len(best) else np.zeros(0)
    names = [model.classes[index] for index in best]
    if abstain is not None:
        names = [name if p >= abstain else UNKNOWN for name, p in zip(names, confidence, strict=True)]
    by_class: Mapping[str, np.ndarray] = {
        name: predictions.probabilities[:, index] for index, name in enumerate(model.classes)
    }
    return {"prediction": names, "confidence": confidence, **by_class}
