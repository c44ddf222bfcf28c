"""FoldData: everything the training of one fold reads, normalised and on the device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from pcl_jax.arrays import Array, Ragged
from pcl_jax.batches import Layout, Packed, gather, split
from pcl_jax.corpora.folds import Fold
from pcl_jax.corpora.utterance import Corpus, Utterance
from pcl_jax.training.devices import everywhere, shared_out
from pcl_jax.views.normalise import How, fit
from pcl_jax.views.store import Store


@dataclass(frozen=True)
class FoldData:
    """One numbering (rows) for the utterances of a fold, their features and labels.

    `train`, `validation` and `test` are rows; each holds all utterances of its sessions, labelled or not.
    """

    corpus: Corpus
    fold: Fold
    ids: tuple[str, ...]
    features: Mapping[str, Packed]
    lengths: Mapping[str, Int[np.ndarray, " n"]]
    """Frames per utterance of the time-resolved views, on the host."""
    labels: Int[np.ndarray, " n"]
    """-1 where the emotion is no target."""
    layout: Layout
    imputed: Mapping[str, int]
    """Values per view that were not finite and became the training mean."""

    @property
    def all(self) -> Int[np.ndarray, " _"]:
        return np.arange(len(self.ids))

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
        lengths = {view: self.lengths[view]} if view in self.lengths else {}
        return replace(self, features={view: self.features[view]}, lengths=lengths)

    def example(self) -> dict[str, Ragged | Array]:
        """The features of one training utterance: what initialisation needs to know of shapes."""
        rows = self.train[:1][None]
        layout = replace(self.layout, groups=1)
        (capacity,) = layout.capacities(self.lengths, list(rows))
        return gather(self.features, rows, capacity=dict(capacity), full_length=layout.full_length)

    def labelled(self, rows: Int[np.ndarray, " _"]) -> Int[np.ndarray, " _"]:
        """Those of the rows whose emotion is a target."""
        return rows[self.labels[rows] >= 0]

    def rows(self, utterances: Sequence[Utterance]) -> Int[np.ndarray, " _"]:
        numbers = {id: row for row, id in enumerate(self.ids)}
        return np.array([numbers[u.id] for u in utterances], int)

    def batches(
        self, rows: Int[np.ndarray, " _"], batch: int, mesh: Mesh, *, drop_last: bool
    ) -> list[tuple[jax.Array, tuple[tuple[str, int], ...], int]]:
        """Batches of the given rows, in order: placed on the devices, capacity, utterances in it."""
        cut = split(rows, batch, drop_last=drop_last)
        placed = jax.device_put([self.layout.place(b) for b in cut], shared_out(mesh))
        counts = [int((b >= 0).sum()) for b in cut]
        return list(zip(placed, self.layout.capacities(self.lengths, cut), counts, strict=True))


def load(
    corpus: Corpus,
    fold: Fold,
    stores: Mapping[str, Store],
    *,
    normalise: Mapping[str, How],
    mesh: Mesh,
    full_length: int | None = None,
) -> FoldData:
    """Read the fold's features, normalise them and put them on every device of the mesh.

    Args:
        stores: of each view.
        normalise: "fold" (statistics of the training utterances), "speaker" or "none": see
            `pcl_jax.views.normalise`. Views that are left out (hidden states) stay as they are stored.
        full_length: give every utterance this many frames (the literal reading of the authors' code).

    Raises:
        KeyError: a store lacks an utterance of the fold.
    """
    utterances = fold.train + fold.validation + fold.test
    ids = tuple(u.id for u in utterances)
    speakers = [u.speaker for u in utterances]
    features, lengths, imputed = {}, {}, {}
    for view, store in stores.items():
        values, frames = store.packed(ids)
        imputed[view] = 0
        if how := normalise.get(view):
            known = len(ids) if how == "speaker" else len(fold.train)
            normaliser = fit(store, ids[:known], speakers[:known], how)
            values, imputed[view] = normaliser.apply(values, frames, speakers)
        rows = np.maximum(frames, 1)
        packed = Packed(values, np.cumsum(rows) - rows, frames)
        features[view] = jax.device_put(packed, everywhere(mesh))
        if frames.any():
            lengths[view] = frames
    labels = np.array([-1 if (c := corpus.label(u)) is None else c for u in utterances], int)
    layout = Layout(groups=mesh.size, full_length=full_length)
    return FoldData(corpus, fold, ids, features, lengths, labels, layout, imputed)
