"""Feature stores -> `FoldData`: read a fold's features, normalise them, put them on the devices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from pcl_jax.corpora.folds import Fold
from pcl_jax.corpora.utterance import Corpus, Utterance
from pcl_jax.data.batches import Layout, Packed
from pcl_jax.data.fold import FoldData
from pcl_jax.data.normalise import Normalisation, Normaliser, fit
from pcl_jax.data.vectors import pool
from pcl_jax.devices import broadcast_from_first, device_memory, put, replicated
from pcl_jax.features.store import Store


@dataclass(frozen=True, eq=False)
class ExtraCorpus:
    """An additional corpus for pre-training only; its labels are ignored."""

    corpus: Corpus
    stores: Mapping[str, Store]


class _LoadedView(NamedTuple):
    """The features of one view on the devices, and what normalised them."""

    method: Normalisation | None
    packed: Packed
    frames: Int[np.ndarray, " n"]
    """Frames of each utterance; zeros for a view of vectors."""
    normaliser: Normaliser | None
    imputed: int


class FoldLoader:
    """Loader of one fold at a time, which keeps the features of the latest fold.

    Runs on one fold share its features, whatever their settings and their views: a view is read once, and a
    request for some of the views gives what loading them alone would give. The features of the previous fold
    are released before those of the next are read, so memory holds one fold, unless a caller keeps another.
    """

    def __init__(
        self,
        corpus: Corpus,
        folds: Mapping[int, Fold],
        stores: Mapping[str, Store],
        mesh: Mesh,
        memory_share: float = 0.5,
    ):
        """Keep what `load` reads.

        Args:
            corpus: The corpus of the folds.
            folds: Each fold, by its test session.
            stores: The feature store of each view.
            mesh: The devices, each of which gets all features.
            memory_share: The share of a device's memory that features may take. Beyond it hidden states, the
                largest view first, stay on disk and are read batch by batch; no result depends on it.
        """
        self.folds, self.stores = folds, stores
        self._corpus, self._mesh = corpus, mesh
        self._budget = memory_share * 2**20 * broadcast_from_first(device_memory(mesh) // 2**20)
        self._key: tuple[int, tuple[ExtraCorpus, ...]] | None = None
        self._loaded: dict[str, _LoadedView] = {}
        self._vectors: dict[str, dict[str, np.ndarray]] = {}

    def load(
        self,
        fold: int,
        views: Sequence[str],
        *,
        normalise: Mapping[str, Normalisation],
        fixed_lengths: Mapping[str, int] | None = None,
        extra_corpora: Sequence[ExtraCorpus] = (),
    ) -> FoldData:
        """Return the data of a fold, and read what is not in memory yet.

        Args:
            fold: The test session of the fold.
            views: The views to load.
            normalise: "fold" (statistics of the training utterances), "speaker" or "none" for each view, see
                `pcl_jax.data.normalise`. Views that are left out (hidden states) stay as they are stored.
            fixed_lengths: The frames that every utterance of a view must have, for encoders that flatten them
                (`pcl_jax.models.encoders.fixed_lengths`); shorter ones are padded with zeros.
            extra_corpora: Additional corpora for pre-training. Each is normalised by its own statistics,
                since its microphones and rooms differ. With them all features are held in memory.

        Raises:
            KeyError: There is no such fold or view, or a store lacks an utterance.
        """
        key = (fold, tuple(extra_corpora))
        if self._key != key:
            self._key, self._loaded = key, {}  # before the next fold is read
        chosen = self.folds[fold]
        utterances = chosen.train + chosen.validation + chosen.test
        on_disk = {} if extra_corpora else self._stay_on_disk(utterances, views, normalise)
        for view in views:
            if view in on_disk or (view in self._loaded and self._loaded[view].method == normalise.get(view)):
                continue
            self._loaded.pop(view, None)  # before it is read again
            extra = [(other.stores[view], other.corpus.utterances) for other in extra_corpora]
            self._loaded[view] = _load_view(
                self.stores[view], utterances, len(chosen.train), normalise.get(view), extra, self._mesh
            )
        extra_ids = [
            f"{extra.corpus.name}: {u.id}" for extra in extra_corpora for u in extra.corpus.utterances
        ]
        labels = [-1 if (c := self._corpus.label(u)) is None else c for u in utterances]
        loaded = {view: self._loaded[view] for view in views if view not in on_disk}
        frames = {v: np.array([len(store[u.id]) for u in utterances]) for v, store in on_disk.items()}
        frames |= {view: entry.frames for view, entry in loaded.items()}
        return FoldData(
            corpus=self._corpus,
            fold=chosen,
            ids=(*(u.id for u in utterances), *extra_ids),
            features={view: entry.packed for view, entry in loaded.items()},
            lengths={view: frames[view] for view in views if frames[view].any()},
            labels=np.array(labels + [-1] * len(extra_ids), int),
            layout=Layout(self._mesh.size, tuple((fixed_lengths or {}).items())),
            imputed={view: loaded[view].imputed if view in loaded else 0 for view in views},
            on_disk=on_disk,
            normalisers={v: entry.normaliser for v, entry in loaded.items() if entry.normaliser is not None},
        )

    def vectors(self, view: str, utterances: Sequence[Utterance]) -> Float[np.ndarray, "n d"]:
        """Return the plain vector of each utterance (`pcl_jax.data.vectors`); each is pooled once."""
        pooled = self._vectors.setdefault(view, {})
        for u in utterances:
            if u.id not in pooled:
                pooled[u.id] = pool(self.stores[view][u.id])
        return np.stack([pooled[u.id] for u in utterances])

    def _stay_on_disk(
        self, utterances: Sequence[Utterance], views: Sequence[str], normalise: Mapping[str, Normalisation]
    ) -> dict[str, Store]:
        """Choose the requested views that stay on disk, and release features that do not fit any more.

        Views in memory that were not requested stay there as long as everything fits.
        """
        size = {
            view: sum(self.stores[view][u.id].nbytes for u in utterances)
            for view in dict.fromkeys((*views, *self._loaded))
        }
        first = utterances[0].id
        movable = [v for v in views if normalise.get(v) is None and self.stores[v][first].ndim > 1]
        on_disk = choose_on_disk({view: size[view] for view in views}, movable, self._budget)
        self._loaded = {view: loaded for view, loaded in self._loaded.items() if view not in on_disk}
        if sum(size[view] for view in size if view not in on_disk) > self._budget:
            self._loaded = {view: loaded for view, loaded in self._loaded.items() if view in views}
        return {view: self.stores[view] for view in views if view in on_disk}


def _load_view(
    store: Store,
    utterances: Sequence[Utterance],
    train: int,
    method: Normalisation | None,
    extra: Sequence[tuple[Store, Sequence[Utterance]]],
    mesh: Mesh,
) -> _LoadedView:
    """Read one view and normalise it; `train` is the number of training utterances, which come first."""
    known = len(utterances) if method == "speaker" else train
    values, frames, normaliser, imputed = _normalise(store, utterances, known, method)
    for extra_store, extra_utterances in extra:
        more_values, more_frames, _, more_imputed = _normalise(
            extra_store, extra_utterances, len(extra_utterances), method
        )
        values, frames = np.concatenate([values, more_values]), np.concatenate([frames, more_frames])
        imputed += more_imputed
    rows = np.maximum(frames, 1)
    packed = put(Packed(values, np.cumsum(rows) - rows, frames), replicated(mesh))
    return _LoadedView(method, packed, frames, normaliser, imputed)


def _normalise(
    store: Store, utterances: Sequence[Utterance], known: int, method: Normalisation | None
) -> tuple[np.ndarray, Int[np.ndarray, " n"], Normaliser | None, int]:
    """Return values, frames, the normaliser fitted on the first `known` utterances, and the imputed count."""
    ids, speakers = [u.id for u in utterances], [u.speaker for u in utterances]
    values, frames = store.packed(ids)
    if method is None:
        return values, frames, None, 0
    normaliser = fit(store, ids[:known], speakers[:known], method)
    values, imputed = normaliser.apply(values, frames, speakers)
    return values, frames, normaliser, imputed


def choose_on_disk(size: Mapping[str, int], movable: Sequence[str], budget: float) -> set[str]:
    """Return the movable views that stay on disk, the largest first and as few as the budget needs.

    >>> choose_on_disk({"mel": 2, "wav2vec2": 9, "hubert": 8}, ["wav2vec2", "hubert"], budget=11.0)
    {'wav2vec2'}
    """
    on_disk, held = set(), sum(size.values())
    for view in sorted(movable, key=lambda view: -size[view]):
        if held > budget:
            on_disk.add(view)
            held -= size[view]
    return on_disk
