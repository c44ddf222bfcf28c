"""Feature stores -> `FoldData`: read a fold's features, normalise them, put them on the devices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from jax.sharding import Mesh

from pcl_jax.corpora.folds import Fold
from pcl_jax.corpora.utterance import Corpus
from pcl_jax.data.batches import Layout, Packed
from pcl_jax.data.fold import FoldData
from pcl_jax.data.normalise import Normalisation, fit
from pcl_jax.devices import put, replicated
from pcl_jax.features.store import Store


@dataclass(frozen=True, eq=False)
class ExtraCorpus:
    """Another corpus, whose speech is pre-trained on and whose labels, if any, are nobody's."""

    corpus: Corpus
    stores: Mapping[str, Store]


def load(
    corpus: Corpus,
    fold: Fold,
    stores: Mapping[str, Store],
    *,
    normalise: Mapping[str, Normalisation],
    mesh: Mesh,
    full_length: int | None = None,
    room: float = inf,
    beside: Sequence[ExtraCorpus] = (),
) -> FoldData:
    """Read the fold's features, normalise them and put them on every device of the mesh.

    Args:
        stores: of each view.
        normalise: "fold" (statistics of the training utterances), "speaker" or "none": see
            `pcl_jax.data.normalise`. Views that are left out (hidden states) stay as they are stored.
        full_length: give every utterance this many frames (the literal reading of the authors' code).
        room: bytes of features that a device is to hold. Beyond it hidden states, the largest first, are
            left on disk and come batch by batch; no result depends on it.
        beside: other corpora to pre-train on, each normalised by statistics of its own, since its microphones
            and rooms are its own. With them all features are held, whatever the room.

    Raises:
        KeyError: a store lacks an utterance of the fold.
    """
    utterances = fold.train + fold.validation + fold.test
    ids = tuple(u.id for u in utterances)
    speakers = [u.speaker for u in utterances]
    on_disk = {} if beside else _left_on_disk(stores, ids, normalise, room)
    features, lengths, imputed = {}, {}, {}
    for view, store in stores.items():
        imputed[view] = 0
        if view in on_disk:
            lengths[view] = np.array([len(store[id]) for id in ids])
            continue
        how = normalise.get(view)
        known = len(ids) if how == "speaker" else len(fold.train)
        values, frames, imputed[view] = _normalised(store, ids, speakers, known, how)
        for other in beside:
            theirs = other.corpus.utterances
            more, more_frames, lost = _normalised(
                other.stores[view], [u.id for u in theirs], [u.speaker for u in theirs], len(theirs), how
            )
            values, frames = np.concatenate([values, more]), np.concatenate([frames, more_frames])
            imputed[view] += lost
        rows = np.maximum(frames, 1)
        packed = Packed(values, np.cumsum(rows) - rows, frames)
        features[view] = put(packed, replicated(mesh))
        if frames.any():
            lengths[view] = frames
    more_ids = tuple(f"{other.corpus.name}: {u.id}" for other in beside for u in other.corpus.utterances)
    labels = np.array(
        [-1 if (c := corpus.label(u)) is None else c for u in utterances] + [-1] * len(more_ids), int
    )
    layout = Layout(groups=mesh.size, full_length=full_length)
    return FoldData(corpus, fold, ids + more_ids, features, lengths, labels, layout, imputed, on_disk)


def _normalised(
    store: Store, ids: Sequence[str], speakers: Sequence[str], known: int, how: Normalisation | None
) -> tuple[np.ndarray, np.ndarray, int]:
    """Values, frames and how many values were imputed; by statistics of the first `known` utterances."""
    values, frames = store.packed(ids)
    if how is None:
        return values, frames, 0
    values, imputed = fit(store, ids[:known], speakers[:known], how).apply(values, frames, speakers)
    return values, frames, imputed


def _left_on_disk(
    stores: Mapping[str, Store], ids: Sequence[str], normalise: Mapping[str, Normalisation], room: float
) -> dict[str, Store]:
    """As few views as need be."""
    size = {view: sum(store[id].nbytes for id in ids) for view, store in stores.items()}
    left = {}
    for view in sorted(stores, key=lambda view: -size[view]):
        if sum(size.values()) > room and view not in normalise and stores[view][ids[0]].ndim > 1:
            left[view] = stores[view]
            del size[view]
    return left
