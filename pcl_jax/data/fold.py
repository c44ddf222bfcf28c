"""The data of one fold, ready to train: normalised features on the device, or read from disk on the way."""

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from pcl_jax.arrays import Array, aligned
from pcl_jax.config import SubsetName
from pcl_jax.corpora.folds import Fold
from pcl_jax.corpora.utterance import Corpus, Utterance
from pcl_jax.data.batches import Layout, Packed, round_up_sizes, split
from pcl_jax.data.normalise import Normaliser
from pcl_jax.data.ragged import IndexedFrames, Ragged, slot_frames
from pcl_jax.devices import put, replicated, sharded
from pcl_jax.features.store import Store

T = TypeVar("T")

PREFETCH = 2
"""Batches that are read from disk in advance: one to compute on, one to wait."""


class Batch(NamedTuple):
    """The inputs of a compiled step."""

    features: Mapping[str, Packed]
    """The features of each view, on the device; those from disk hold the utterances of this batch only."""
    rows: Int[Array, "*r g n"]
    """-1: no utterance."""
    static: dict[str, Any]
    """`capacity`, hashable, and `fixed_lengths` for `gather`: each value is a program."""
    utterances: int
    """The number of utterances (of each run), without padding."""
    waited_s: float
    """Seconds that the batch was waited for, if it comes from disk."""


@dataclass(frozen=True)
class FoldData:
    """The utterances of a fold under one numbering (rows), their features and labels.

    `train`, `validation` and `test` are rows; each holds all utterances of its sessions, labelled or not.
    """

    corpus: Corpus
    fold: Fold
    ids: tuple[str, ...]
    features: Mapping[str, Packed]
    """The features of each view in memory, on every device."""
    lengths: Mapping[str, Int[np.ndarray, " n"]]
    """Frames per utterance of the time-resolved views, on the host."""
    labels: Int[np.ndarray, " n"]
    """The class of each utterance, -1 where its emotion is no target."""
    layout: Layout
    imputed: Mapping[str, int]
    """The number of values of each view that were not finite and became the training mean."""
    on_disk: Mapping[str, Store] = field(default_factory=dict)
    """Views that are read batch by batch, as they are stored."""
    normalisers: Mapping[str, Normaliser] = field(default_factory=dict)
    """The normaliser of each view that has one; extra corpora have their own, which are not kept."""

    @property
    def every_row(self) -> Int[np.ndarray, " _"]:
        """The rows of all utterances of the fold, without extra corpora."""
        return np.arange(len(self.train) + len(self.validation) + len(self.test))

    @property
    def extra(self) -> Int[np.ndarray, " _"]:
        """The rows of extra corpora, for pre-training only."""
        return np.arange(len(self.every_row), len(self.ids))

    @property
    def train(self) -> Int[np.ndarray, " _"]:
        """The rows of the training sessions."""
        return np.arange(len(self.fold.train))

    @property
    def validation(self) -> Int[np.ndarray, " _"]:
        """The rows of the validation session."""
        return len(self.fold.train) + np.arange(len(self.fold.validation))

    @property
    def test(self) -> Int[np.ndarray, " _"]:
        """The rows of the test session."""
        return len(self.fold.train) + len(self.fold.validation) + np.arange(len(self.fold.test))

    def select_view(self, view: str) -> "FoldData":
        """Return the same fold with the features of one view."""
        return self.select_views([view])

    def select_views(self, views: Sequence[str]) -> "FoldData":
        """Return the same fold with the features of these views, as if they alone had been loaded.

        Raises:
            KeyError: The fold has no such view.
        """
        if missing := [view for view in views if view not in self.features and view not in self.on_disk]:
            raise KeyError(f"the fold has no view {missing[0]!r}, only {[*self.features, *self.on_disk]}")
        return replace(
            self,
            **{
                name: {view: getattr(self, name)[view] for view in views if view in getattr(self, name)}
                for name in ("features", "lengths", "imputed", "on_disk", "normalisers")
            },
        )

    def undivided(self) -> "FoldData":
        """Return the same fold with whole batches on each device, for runs that devices share out."""
        return replace(self, layout=replace(self.layout, groups=1))

    def with_vectors(self, vectors: Float[np.ndarray, "n d"], mesh: Mesh) -> "FoldData":
        """Return the same fold with one vector per utterance as the features of its only view."""
        (view,) = (*self.features, *self.on_disk)
        n = len(vectors)
        packed = put(Packed(vectors, np.arange(n), np.zeros(n, int)), replicated(mesh))
        return replace(self, features={view: packed}, on_disk={}, lengths={})

    def iterate_features(self, view: str) -> Iterator[np.ndarray]:
        """Yield the features of each utterance, in the order of rows, on the host."""
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
        """Return zeros in the shape of one utterance, from which initialisation takes its shapes.

        Its length is the same for all folds, so that they share the programs of initialisation.
        """
        stored = {view: packed.values for view, packed in self.features.items()}
        stored |= {view: store[self.ids[0]] for view, store in self.on_disk.items()}
        fixed, found = dict(self.layout.fixed_lengths), {}
        for view, values in stored.items():
            axes = values.shape[1:]
            if view not in self.lengths:
                found[view] = np.zeros((1, *axes), np.float32)
                continue
            lengths = np.array([[fixed.get(view, 1)]], np.int32)
            size = int(slot_frames(lengths).sum())
            owner, position = np.zeros((1, size), np.int32), np.arange(size, dtype=np.int32)[None]
            frames = np.zeros((1, size, *axes), np.float32)
            if len(axes) == 2:
                frames = IndexedFrames(np.zeros((1, *axes), values.dtype), owner)
            found[view] = Ragged(frames, owner, position, lengths)
        return found

    def labelled(self, rows: Int[np.ndarray, " _"]) -> Int[np.ndarray, " _"]:
        """Return the rows whose emotion is a target."""
        return rows[self.labels[rows] >= 0]

    def choose_subset(self, rows: Int[np.ndarray, " _"], subset: SubsetName) -> Int[np.ndarray, " _"]:
        """Return the rows that `Corpus.subset` would choose."""
        return rows if subset == "all" else rows[(self.labels[rows] >= 0) == (subset == "target")]

    def rows(self, utterances: Sequence[Utterance]) -> Int[np.ndarray, " _"]:
        """Return the rows of utterances of the fold. Raises: KeyError, if one is not in it."""
        numbers = {id: row for row, id in enumerate(self.ids)}
        return np.array([numbers[u.id] for u in utterances], int)

    def batches(
        self,
        rows: Int[np.ndarray, "*r _"],
        batch: int,
        mesh: Mesh,
        *,
        drop_last: bool,
        balanced: bool = False,
    ) -> Iterator[Batch]:
        """Yield batches of the given rows, in order; of each run, if each has its rows.

        Features that stay on disk are prefetched by a thread, `PREFETCH` batches in advance.

        Args:
            rows: The utterances, `[n]` or `[r, n]`.
            batch: Utterances per batch (and run).
            mesh: The devices that share each batch, or the runs.
            drop_last: Drop the last, smaller batch; otherwise pad it with -1.
            balanced: The batches have about equal durations.
        """
        cut = split(rows, batch, drop_last=drop_last)
        whole = rows.ndim == 1 and self.layout.groups == 1  # no groups and no runs to share out
        sharding = replicated(mesh) if whole else sharded(mesh)
        placed = put([self.layout.place(b) for b in cut], sharding)
        counts = [int((b >= 0).sum(axis=-1).max()) for b in cut]
        read = repeat(({}, 0.0), len(cut))
        if self.on_disk:
            read = _prefetch(put(features, replicated(mesh)) for features in self._read(cut))
        capacities = self.layout.capacities(self.lengths, cut, balanced=balanced)
        for batch_rows, capacity, count, (features, waited_s) in zip(
            placed, capacities, counts, read, strict=True
        ):
            static = {"capacity": capacity, "fixed_lengths": self.layout.fixed_lengths}
            yield Batch({**self.features, **features}, batch_rows, static, count, waited_s)

    def _read(self, batches: Sequence[Int[np.ndarray, "*r b"]]) -> Iterator[dict[str, Packed]]:
        """Yield for each batch the features that stay on disk; `starts` are valid for its utterances only."""
        batch_rows = [np.unique(batch[batch >= 0]) for batch in batches]
        sizes = {}  # frames that each batch needs, rounded up to a few
        for view in self.on_disk:
            lengths = self.lengths[view]
            needed = np.array([lengths[rows].sum() for rows in batch_rows], float)
            sizes[view] = np.ceil(round_up_sizes(needed)).astype(int).tolist()
        for number, rows in enumerate(batch_rows):
            read = {}
            for view, store in self.on_disk.items():
                lengths = self.lengths[view]
                like = store[self.ids[0]]
                buffer = aligned((sizes[view][number], *like.shape[1:]), like.dtype)
                store.packed([self.ids[row] for row in rows], out=buffer)
                starts = np.zeros(len(lengths), int)
                starts[rows] = np.cumsum(lengths[rows]) - lengths[rows]
                read[view] = Packed(buffer, starts, lengths)
            yield read

    def throttle(self, result: T) -> T:
        """Wait for a step if batches come from disk; otherwise they would all pile up in memory."""
        return jax.block_until_ready(result) if self.on_disk else result


def _prefetch(items: Iterator[T]) -> Iterator[tuple[T, float]]:
    """Yield items that a thread makes in advance, and the seconds that each was waited for."""
    with ThreadPoolExecutor(1) as thread:
        coming = deque(thread.submit(next, items, None) for _ in range(PREFETCH))
        while True:
            began = time.perf_counter()
            item = coming.popleft().result()
            waited_s = time.perf_counter() - began
            if item is None:
                return
            coming.append(thread.submit(next, items, None))
            yield item, waited_s
