"""View: what the rest of the house needs to know of one representation of the audio.

A new view is one object of this protocol and one entry in `catalogue.VIEWS`.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from pcl_jax.config import Encoders

if TYPE_CHECKING:
    from flax import linen as nn  # worker processes compute features without loading it


@runtime_checkable
class View(Protocol):
    """One representation of an utterance's audio, and the encoder that reads it."""

    @property
    def name(self) -> str: ...

    @property
    def on_device(self) -> bool:
        """Whether `features` runs here, in batches, on the accelerator, and not in worker processes."""
        ...

    @property
    def normalised(self) -> bool:
        """Whether the run's `normalise` setting applies: for mel and eGeMAPS, not for hidden states."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """Everything that changes a value (JSON types). The store's digest is made of this."""
        ...

    def features(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Waveforms (float32 mono [samples], at `sampling_rate` 16 kHz, the whole utterance) ->
        per utterance float32 `[t, ...]` (time-resolved) or `[d]` (one vector)."""
        ...

    def encoder(self, config: Encoders) -> "nn.Module":
        """The encoder for this view's features: see `pcl_jax.encoders`."""
        ...
