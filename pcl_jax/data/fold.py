"""FoldData: everything the training of one fold reads, normalised; on the device, or on its way there."""

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import repeat
from math import inf
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from pcl_jax.arrays import Array, Ragged, aligned
from pcl_jax.config import SubsetName
from pcl_jax.corpora.folds import Fold
from pcl_jax.corpora.utterance import Corpus, Utterance
from pcl_jax.data.batches import Layout, Packed, few_sizes, gather, split
from pcl_jax.data.normalise import How, fit
from pcl_jax.devices import everywhere, put, shared_out
from pcl_jax.features.store import Store

T = TypeVar("T")

AHEAD = 2
"""Batches that are read from disk before they are asked for: one that is computed on, one that waits."""


class Batch(NamedTuple):
    """What a step needs."""

    features: Mapping[str, Packed]
    """Of each view, on the device; those that come from disk hold this batch's utterances alone."""
    rows: Int[Array, "*r g n"]
    """-1: no utterance."""
    static: dict[str, Any]
    """`capacity`, hashable, and `full_length` for `gather`: a program for each."""
    utterances: int
    """How many there are in it, of each run."""
    waited_s: float
    """For the disk."""


@dataclass(frozen=True)
class FoldData:
    """One numbering (rows) for the utterances of a fold, their features and labels.

    `train`, `validation` and `test` are rows; each holds all utterances of its sessions, labelled or not.
    """

    corpus: Corpus
    fold: Fold
    ids: tuple[str, ...]
    features: Mapping[str, Packed]
    """On every device."""
    lengths: Mapping[str, Int[np.ndarray, " n"]]
    """Frames per utterance of the time-resolved views, on the host."""
    labels: Int[np.ndarray, " n"]
    """-1 where the emotion is no target."""
    layout: Layout
    imputed: Mapping[str, int]
    """Values per view that were not finite and became the training mean."""
    on_disk: Mapping[str, Store] = field(default_factory=dict)
    """Views that are read batch by batch, as they are stored."""

    @property
    def all(self) -> Int[np.ndarray, " _"]:
        return np.arange(len(self.train) + len(self.validation) + len(self.test))

    @property
    def beside(self) -> Int[np.ndarray, " _"]:
        """Utterances of other corpora, for pre-training alone."""
        return np.arange(len(self.all), len(self.ids))

    @property
    def train(self) -> Int[np.ndarray, " _"]:
        return np.arange(len(self.fold.train))

    @property
    def validation(self) -> Int[np.ndarray, " _"]:
        return len(self.fold.train) + np.arange(len(self.fold.validation))

    @property
    def test(self) -> Int[np.ndarray, " _"]:
        return len(self.fold.train) + len(self.fold.validation) + np.arange(len(self.fold.test))

    def of_view(self, view: str) -> "FoldData":
        """The same fold with the features of one view."""
        features, on_disk, lengths = (
            {name: values for name, values in of_all.items() if name == view}
            for of_all in (self.features, self.on_disk, self.lengths)
        )
        return replace(self, features=features, on_disk=on_disk, lengths=lengths)

    def whole_batches(self) -> "FoldData":
        """The same fold whose batches are not shared out: each device has whole ones, of its own runs."""
        return replace(self, layout=replace(self.layout, groups=1))

    def with_vectors(self, vectors: Float[np.ndarray, "n d"], mesh: Mesh) -> "FoldData":
        """The same fold with one vector per utterance as the features of its one view."""
        (view,) = (*self.features, *self.on_disk)
        n = len(vectors)
        packed = put(Packed(vectors, np.arange(n), np.zeros(n, int)), everywhere(mesh))
        return replace(self, features={view: packed}, on_disk={}, lengths={})

    def each(self, view: str) -> Iterator[np.ndarray]:
        """The features of each utterance, in the order of rows, on the host."""
        if store := self.on_disk.get(view):
            yield from map(store.__getitem__, self.ids)
            return
        packed = self.features[view]
        values, starts = np.asarray(packed.values), np.asarray(packed.starts)
        if view not in self.lengths:
            yield from values[starts]
            return
        for start, length in zip(starts, self.lengths[view], strict=True):
            yield values[start : start + length]

    def example(self) -> dict[str, Ragged | Array]:
        """The features of one training utterance: what initialisation needs to know of shapes."""
        rows = self.train[:1]
        layout = self.whole_batches().layout
        (capacity,) = layout.capacities(self.lengths, [rows])
        (read,) = self._read([rows])
        # Not compiled: hidden states come out as they went in, by reference, and a program would copy them.
        return gather(
            {**self.features, **read},
            layout.place(rows),
            capacity=dict(capacity),
            full_length=layout.full_length,
        )

    def labelled(self, rows: Int[np.ndarray, " _"]) -> Int[np.ndarray, " _"]:
        """Those of the rows whose emotion is a target."""
        return rows[self.labels[rows] >= 0]

    def among(self, rows: Int[np.ndarray, " _"], subset: SubsetName) -> Int[np.ndarray, " _"]:
        """Those of the rows that `Corpus.subset` would choose."""
        return rows if subset == "all" else rows[(self.labels[rows] >= 0) == (subset == "target")]

    def rows(self, utterances: Sequence[Utterance]) -> Int[np.ndarray, " _"]:
        numbers = {id: row for row, id in enumerate(self.ids)}
        return np.array([numbers[u.id] for u in utterances], int)

    def batches(
        self, rows: Int[np.ndarray, "*r _"], batch: int, mesh: Mesh, *, drop_last: bool
    ) -> Iterator[Batch]:
        """Batches of the given rows, in order; of each run, where there are several with rows of their own.

        What stays on disk is read by a thread, `AHEAD` batches before they are asked for.
        """
        cut = split(rows, batch, drop_last=drop_last)
        whole = rows.ndim == 1 and self.layout.groups == 1  # neither groups nor runs to share out
        sharding = everywhere(mesh) if whole else shared_out(mesh)
        placed = put([self.layout.place(b) for b in cut], sharding)
        counts = [int((b >= 0).sum(axis=-1).max()) for b in cut]
        read = repeat(({}, 0.0), len(cut))
        if self.on_disk:
            read = _ahead(put(now, everywhere(mesh)) for now in self._read(cut))
        capacities = self.layout.capacities(self.lengths, cut)
        for of_batch, capacity, count, (now, waited_s) in zip(placed, capacities, counts, read, strict=True):
            static = {"capacity": capacity, "full_length": self.layout.full_length}
            yield Batch({**self.features, **now}, of_batch, static, count, waited_s)

    def _read(self, batches: Sequence[Int[np.ndarray, "*r b"]]) -> Iterator[dict[str, Packed]]:
        """Of each batch, the features that stay on disk: `starts` are right for its utterances alone."""
        wanted = [np.unique(batch[batch >= 0]) for batch in batches]
        room = {}
        for view in self.on_disk:
            lengths = self.lengths[view]
            room[view] = np.ceil(few_sizes(np.array([lengths[rows].sum() for rows in wanted], float)))
        for number, rows in enumerate(wanted):
            read = {}
            for view, store in self.on_disk.items():
                lengths = self.lengths[view]
                like = store[self.ids[0]]
                buffer = aligned((int(room[view][number]), *like.shape[1:]), like.dtype)
                store.packed([self.ids[row] for row in rows], out=buffer)
                starts = np.zeros(len(lengths), int)
                starts[rows] = np.cumsum(lengths[rows]) - lengths[rows]
                read[view] = Packed(buffer, starts, lengths)
            yield read

    def pace(self, result: T) -> T:
        """Wait for a step, where batches come from disk: otherwise all of them would wait in memory."""
        return jax.block_until_ready(result) if self.on_disk else result


def _ahead(items: Iterator[T]) -> Iterator[tuple[T, float]]:
    """The same items, made by a thread before they are asked for; and how long each was waited for."""
    with ThreadPoolExecutor(1) as thread:
        coming = deque(thread.submit(next, items, None) for _ in range(AHEAD))
        while True:
            began = time.perf_counter()
            item = coming.popleft().result()
            waited_s = time.perf_counter() - began
            if item is None:
                return
            coming.append(thread.submit(next, items, None))
            yield item, waited_s


@dataclass(frozen=True, eq=False)
class Beside:
    """Another corpus, whose speech is pre-trained on and whose labels, if any, are nobody's."""

    corpus: Corpus
    stores: Mapping[str, Store]


def load(
    corpus: Corpus,
    fold: Fold,
    stores: Mapping[str, Store],
    *,
    normalise: Mapping[str, How],
    mesh: Mesh,
    full_length: int | None = None,
    room: float = inf,
    beside: Sequence[Beside] = (),
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
        features[view] = put(packed, everywhere(mesh))
        if frames.any():
            lengths[view] = frames
    more_ids = tuple(f"{other.corpus.name}: {u.id}" for other in beside for u in other.corpus.utterances)
    labels = np.array(
        [-1 if (c := corpus.label(u)) is None else c for u in utterances] + [-1] * len(more_ids), int
    )
    layout = Layout(groups=mesh.size, full_length=full_length)
    return FoldData(corpus, fold, ids + more_ids, features, lengths, labels, layout, imputed, on_disk)


def _normalised(
    store: Store, ids: Sequence[str], speakers: Sequence[str], known: int, how: How | None
) -> tuple[np.ndarray, np.ndarray, int]:
    """Values, frames and how many values were imputed; by statistics of the first `known` utterances."""
    values, frames = store.packed(ids)
    if how is None:
        return values, frames, 0
    values, imputed = fit(store, ids[:known], speakers[:known], how).apply(values, frames, speakers)
    return values, frames, imputed


def _left_on_disk(
    stores: Mapping[str, Store], ids: Sequence[str], normalise: Mapping[str, How], room: float
) -> dict[str, Store]:
    """As few views as need be."""
    size = {view: sum(store[id].nbytes for id in ids) for view, store in stores.items()}
    left = {}
    for view in sorted(stores, key=lambda view: -size[view]):
        if sum(size.values()) > room and view not in normalise and stores[view][ids[0]].ndim > 1:
            left[view] = stores[view]
            del size[view]
    return left
