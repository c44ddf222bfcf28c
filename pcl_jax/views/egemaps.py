"""View "egemaps": waveform -> the 88 functionals of eGeMAPSv02, `[88]` (Eyben et al. 2016)."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32

from pcl_jax import audio
from pcl_jax.audio import Waveform
from pcl_jax.views.versions import AUDIO_LIBRARIES, series
from pcl_jax.views.view import Kind, View

VERSION = 1
"""Version of the algorithm: raised with every change that changes a value."""


@dataclass(frozen=True)
class Egemaps:
    """Parameters of the 88 eGeMAPSv02 functionals of the bare, unpadded utterance."""

    sampling_rate: int = 16_000
    """Hz."""
    feature_set: Literal["eGeMAPSv02"] = "eGeMAPSv02"
    peak: float = 1 - 2**-15
    """Samples are clipped to +-peak: openSMILE's int16 cast turns +1.0 into -32768."""

    def __post_init__(self) -> None:
        """Refuse a peak that leaves no signal, or that the cast would turn over. Raises: ValueError."""
        if not 0 < self.peak <= 1 - 2**-15:
            raise ValueError(f"peak is {self.peak:g}: give a value above 0, at most 1 - 2**-15")


@cache  # one in a process: making it parses openSMILE's configuration
def _smile(feature_set: str) -> Any:
    import opensmile  # here, so that `--help` does not wait for it

    return opensmile.Smile(opensmile.FeatureSet[feature_set], opensmile.FeatureLevel.Functionals)


def names(egemaps: Egemaps | None = None) -> tuple[str, ...]:
    """Return the names of the functionals, in the order of the features.

    >>> len(names()), names()[0]
    (88, 'F0semitoneFrom27.5Hz_sma3nz_amean')
    """
    return tuple(_smile((egemaps or Egemaps()).feature_set).feature_names)


def functionals(waveform: Waveform, egemaps: Egemaps) -> Float32[np.ndarray, " d"]:
    """Compute the functionals of one bare, unpadded utterance.

    Zeros behind the speech would count as pauses: padding 4 s to 15 s moves a quarter of the 88
    functionals by more than 10 %.

    Args:
        waveform: float32 `[samples]`, the whole utterance, at `egemaps.sampling_rate`.
        egemaps: Samples are clipped to +-`egemaps.peak`, for openSMILE's int16 cast.

    Returns:
        float32 `[88]`; NaN where openSMILE has no value (all of them below about 60 ms). They are
        imputed later, by `normalise`, from training utterances.
    """
    waveform = np.clip(waveform, -egemaps.peak, egemaps.peak)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Segment too short")  # the NaNs are counted instead
        values = _smile(egemaps.feature_set)(waveform, egemaps.sampling_rate)
    return np.asarray(values, np.float32).reshape(-1)


@dataclass(frozen=True)
class EgemapsView(View):
    """The eGeMAPSv02 functionals of the bare utterance.

    Raises:
        ValueError: The configured rate is not the one that `audio.read` gives.
    """

    config: Egemaps = field(default_factory=Egemaps)

    def __post_init__(self) -> None:
        """Check the sampling rate."""
        audio.require_rate(self.name, self.config.sampling_rate)

    @property
    def name(self) -> str:
        """The name in folders, flags and records."""
        return "egemaps"

    @property
    def kind(self) -> Kind:
        """The shape of the features: `[88]`."""
        return "vector"

    def describe(self) -> Mapping[str, Any]:
        """Return everything that changes a value."""
        return {
            "kind": "egemaps",
            "version": VERSION,
            "libraries": series("opensmile", *AUDIO_LIBRARIES),
            "audio": audio.PROCESSING,
            "dtype": "float32",
            **asdict(self.config),
        }

    def size(self, duration_s: float) -> int:
        """Return the bytes of the 88 functionals."""
        return 4 * 88

    def features(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute float32 `[88]` of each waveform; see `functionals`."""
        return [functionals(waveform, self.config) for waveform in waveforms]
