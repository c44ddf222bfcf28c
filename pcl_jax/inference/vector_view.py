"""VectorView: the pooled vector of a view, small enough to keep for 100,000 files.

The hidden states of Whisper base take 1.4 MB for four seconds of speech, their vector 28 kB. What learns or
predicts from vectors alone stores them and not the features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from pcl_jax import audio
from pcl_jax.corpora.utterance import Utterance
from pcl_jax.data.vectors import pool
from pcl_jax.features import store
from pcl_jax.features.store import Store
from pcl_jax.views.view import Kind, View

VERSION = 1
"""Version of the pooling: raised with every change that changes a value."""
_SHORT_S = 0.02
"""Seconds of which the features, of a frame or a few, take about as much as the vector."""


@dataclass(frozen=True)
class VectorView(View):
    """The vector of a view, `[d]`: `pcl_jax.data.vectors.pool` of its features."""

    view: View
    stored: Path | None = None
    """Folder of the view's features, used where an utterance is there and its audio has not changed."""

    @property
    def name(self) -> str:
        """The name of the view, marked: its store is another one."""
        return f"{self.view.name}-vectors"

    @property
    def kind(self) -> Kind:
        """The shape of the values: `[d]`."""
        return "vector"

    @property
    def title(self) -> str:
        """The name in tables."""
        return self.view.title

    @property
    def device_batch(self) -> int | None:
        """The batch of the view."""
        return self.view.device_batch

    @property
    def longest_s(self) -> float | None:
        """The seconds that the view reads."""
        return self.view.longest_s

    def describe(self) -> Mapping[str, Any]:
        """Return everything that changes a value."""
        return {**self.view.describe(), "dtype": "float32", "vectors": VERSION}

    def size(self, duration_s: float) -> int:
        """Estimate the bytes of an utterance."""
        return 4 * self.view.size(min(duration_s, _SHORT_S))

    def precomputed(self, utterance: Utterance) -> np.ndarray | None:
        """Return the vector of features that are stored; None: it is computed from the audio."""
        features = self.view.precomputed(utterance)
        if features is None and self.stored is not None:
            features = _stored_features(self.stored, utterance)
        return None if features is None else pool(features)

    def features(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute the vector of each waveform, float32 `[d]`."""
        return [pool(features) for features in self.view.features(waveforms)]


@cache
def _open(folder: Path) -> Store | None:
    return store.open(folder) if folder.is_dir() else None


def _stored_features(folder: Path, utterance: Utterance) -> np.ndarray | None:
    stored = _open(folder)
    if stored is None or utterance.id not in stored:
        return None
    content = audio.file_digests([utterance.path], workers=1)[utterance.path]
    if not isinstance(content, str):
        return None
    digest = audio.segment_digest(content, utterance.start_s, utterance.end_s)
    return stored[utterance.id] if stored.audio_digest(utterance.id) == digest else None
