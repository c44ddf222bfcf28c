"""View: one representation of the audio, as every other stage sees it.

A new view is one class that inherits the defaults of this protocol, and one line in `catalogue`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np

from pcl_jax.corpora.utterance import Utterance

Kind: TypeAlias = Literal["vector", "frames", "states"]
"""The shape of one utterance's features: `[d]`, `[t, d]` or `[t, h, d]`."""


@runtime_checkable
class View(Protocol):
    """One representation of an utterance's audio."""

    @property
    def name(self) -> str:
        """The name in folders, flags and records."""
        ...

    @property
    def kind(self) -> Kind:
        """The shape of the features; `pcl_jax.models.encoders.ENCODERS` has an encoder for each kind."""
        ...

    @property
    def title(self) -> str:
        """The name in tables and plots."""
        return self.name

    @property
    def normalised(self) -> bool:
        """Whether the setting `normalise` of a run applies: to mel and eGeMAPS, not to hidden states."""
        return True

    @property
    def full_frames(self) -> int | None:
        """The number of frames of a full clip, if the view cuts utterances to one; else None."""
        return None

    @property
    def device_batch(self) -> int | None:
        """The number of utterances in one call of `features`; None: one, in a worker process.

        Views with a number run in the process that has the accelerator.
        """
        return None

    @property
    def longest_s(self) -> float | None:
        """The seconds that a view on the accelerator reads of an utterance; it gets no more. None: all."""
        return None

    @property
    def frozen_parameters(self) -> int:
        """The number of parameters of the model that makes the features; 0 where there is none."""
        return 0

    def describe(self) -> Mapping[str, Any]:
        """Return everything that changes a value (JSON types); the digest of the store is made of this."""
        ...

    def size(self, duration_s: float) -> int:
        """Estimate the bytes that the features of an utterance of this duration take."""
        ...

    def precomputed(self, utterance: Utterance) -> np.ndarray | None:
        """Return features that were made elsewhere; None: they are computed from the audio."""
        return None

    def features(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute the features of each waveform.

        Args:
            waveforms: Whole utterances, float32 `[samples]`, mono, 16 kHz, in [-1, 1].

        Returns:
            One array per utterance, float16 or float32, of the shape that `kind` says.
        """
        ...
