"""View: what the rest of the house needs to know of one representation of the audio.

A new view is one class that inherits this protocol's defaults, and one line in `catalogue`.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from pcl_jax.config import Encoders
from pcl_jax.corpora.utterance import Utterance

if TYPE_CHECKING:
    from flax import linen as nn  # worker processes compute features without loading it


@runtime_checkable
class View(Protocol):
    """One representation of an utterance's audio, and the encoder that reads it."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str:
        """The name in tables and plots."""
        return self.name

    @property
    def normalised(self) -> bool:
        """Whether the run's `normalise` setting applies: for mel and eGeMAPS, not for hidden states."""
        return True

    @property
    def device_batch(self) -> int | None:
        """Utterances handed at once to `features` here, where the accelerator is; None: one by one, in
        worker processes."""
        return None

    @property
    def longest_s(self) -> float | None:
        """All that a view on the accelerator reads of an utterance, and so is given; None: the whole."""
        return None

    @property
    def frozen_parameters(self) -> int:
        """Of the model that makes the features; 0 where there is none."""
        return 0

    def describe(self) -> Mapping[str, Any]:
        """Everything that changes a value (JSON types). The store's digest is made of this."""
        ...

    def size(self, duration_s: float) -> int:
        """Bytes that the features of an utterance of this duration take, about."""
        ...

    def given(self, utterance: Utterance) -> np.ndarray | None:
        """Features that were made elsewhere; None: they are computed from the audio."""
        return None

    def features(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Waveforms (float32 mono [samples], at `sampling_rate` 16 kHz, the whole utterance) ->
        per utterance float `[t, ...]` (time-resolved) or `[d]` (one vector)."""
        ...

    def encoder(self, config: Encoders) -> "nn.Module":
        """The encoder for this view's features: see `pcl_jax.models.encoders`."""
        ...
