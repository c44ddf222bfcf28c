"""Model: a trained classifier in memory: waveform -> probability of each class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import log_softmax

from pcl_jax import audio
from pcl_jax.inference.reach import Reach
from pcl_jax.inference.vector_view import VectorView
from pcl_jax.training.classifier import Trained, predict
from pcl_jax.views.view import View


@dataclass(frozen=True)
class Model:
    """A trained model: views, vectors, readouts, and the name of each class.

    Example:
        model = pcl_jax.load_model("my_model")
        model.predict(waveform, 16_000)  # {"angry": 0.71, "neutral": 0.29}
    """

    classes: tuple[str, ...]
    views: Mapping[str, View]
    """The views that the model reads, by name."""
    trained: Trained
    reach: Reach
    config: Mapping[str, Any]
    """Content of `config.json`."""
    remarks: tuple[str, ...] = ()
    """Facts that whoever uses the model must know, one line each."""

    @cached_property
    def vector_views(self) -> dict[str, VectorView]:
        """The views as they are computed for a prediction: one vector of an utterance."""
        return {name: VectorView(view) for name, view in self.views.items()}

    @property
    def normalises_speakers(self) -> bool:
        """Whether predictions get better where it is known who speaks."""
        return self.trained.normalise == "speaker"

    def predict(self, waveform: np.ndarray, sampling_rate: int) -> dict[str, float]:
        """Return the probability of each class for one utterance, of a speaker who is not known.

        Args:
            waveform: `[samples]`, mono. Floats with full scale 1; integers are divided by their full scale.
            sampling_rate: Its sampling rate in Hz; the waveform is resampled to 16 kHz.

        Returns:
            Class -> probability; they sum to 1.

        Raises:
            AudioError: The waveform is empty, silent, too short, beyond full scale or not finite.
            ValueError: The waveform is not one channel, or the rate is not a number of Hz.
        """
        vectors = self.vectors([prepared(waveform, sampling_rate)])
        probabilities = np.exp(self.log_probabilities(vectors)[0])
        return dict(zip(self.classes, map(float, probabilities), strict=True))

    def vectors(self, waveforms: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Return the vectors of utterances, view -> `[n, d]`; each waveform as `audio.read` returns it."""
        return {
            name: np.stack([view.features([waveform])[0] for waveform in waveforms])
            for name, view in self.vector_views.items()
        }

    def log_probabilities(
        self, vectors: Mapping[str, np.ndarray], speakers: Sequence[str] | None = None
    ) -> Float[np.ndarray, "n c"]:
        """Return calibrated log-probabilities.

        Args:
            vectors: As `vectors` returns them.
            speakers: Who speaks in each utterance, where that is known: used by models that are normalised
                per speaker, which then need all utterances of a speaker in one call.
        """
        found = np.asarray(predict(self.trained, vectors, speakers), np.float64)
        return log_softmax(found, axis=1)  # float32 leaves the sum of the probabilities 1e-7 off


def views_of(trained: Trained) -> set[str]:
    """Return the names of the views that a classifier reads, and the one that it falls back to."""
    return {*trained.readouts, *(views_of(trained.fallback) if trained.fallback else ())}


def prepared(waveform: np.ndarray, sampling_rate: int) -> audio.Waveform:
    """Return a waveform as `audio.read` would return it from a file: 16 kHz, float32, checked.

    Raises:
        AudioError, ValueError: As `Model.predict`.
    """
    samples = np.asarray(waveform)
    if samples.ndim != 1:
        raise ValueError(f"the waveform has shape {samples.shape}: give one channel, [samples]")
    if not (isinstance(sampling_rate, (int, np.integer)) and 1_000 <= sampling_rate <= 1_000_000):
        raise ValueError(f"sampling_rate is {sampling_rate!r}: give a whole number of Hz")
    if np.issubdtype(samples.dtype, np.signedinteger):
        samples = samples / -float(np.iinfo(samples.dtype).min)
    elif not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"the waveform holds {samples.dtype}: give floats or signed integers")
    return audio.prepare(np.ascontiguousarray(samples, np.float32), int(sampling_rate))
