"""View "mel": waveform -> log-mel spectrogram `[t, 64]`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float32

from pcl_jax import audio
from pcl_jax.audio import Waveform
from pcl_jax.views.clip import Clip
from pcl_jax.views.versions import AUDIO_LIBRARIES, series
from pcl_jax.views.view import Kind, View

VERSION = 1
"""Version of the algorithm: raised with every change that changes a value."""


@dataclass(frozen=True)
class Mel:
    """Parameters of the mel spectrogram [P: window, hop, bands, range; A: the rest]."""

    sampling_rate: int = 16_000
    """Hz."""
    window: int = 400
    """Samples: 25 ms [P]; also the FFT length. Periodic Hamming [A]."""
    hop: int = 160
    """Samples: 10 ms [P]."""
    bands: int = 64
    """[P]"""
    f_min_hz: float = 60.0
    """[P]"""
    f_max_hz: float = 7_800.0
    """[P]"""
    log: bool = True
    """Natural logarithm. Off in the authors' public code; see PAPER.md."""
    floor: float = 1e-6
    """Power below this is raised to it before the logarithm: about 100 dB below a full-scale sine, whose
    power at its bin is (sum of the window / 2)^2 = 11,664."""
    clip: Clip = field(default_factory=Clip)

    def __post_init__(self) -> None:
        """Refuse values that make no spectrogram. Raises: ValueError."""
        for name, value in (("window", self.window), ("hop", self.hop), ("bands", self.bands)):
            if value < 1:
                raise ValueError(f"{name} is {value}: give 1 or more")
        if self.bands > (frequencies := self.window // 2 + 1):
            raise ValueError(
                f"bands is {self.bands}: a window of {self.window} samples has {frequencies} frequencies, so "
                "give that or fewer"
            )
        nyquist = audio.SAMPLING_RATE / 2
        if not 0 <= self.f_min_hz < self.f_max_hz <= nyquist:
            raise ValueError(
                f"bands reach from f_min_hz {self.f_min_hz:g} to f_max_hz {self.f_max_hz:g}: give a range "
                f"within 0 to {nyquist:g}"
            )
        if not 0 < self.floor < math.inf:
            raise ValueError(f"floor is {self.floor:g}: give a power above 0")

    @property
    def full_frames(self) -> int:
        """The number of frames of a full clip: 1501 for 15 s at a hop of 160."""
        return 1 + round(self.clip.duration_s * self.sampling_rate) // self.hop


def kept_frames(samples: int, mel: Mel) -> int:
    """Count the frames that hold speech of an utterance.

    Frame i is centred at sample `i * hop`. Kept are the frames centred no later than the end of the speech,
    `i * hop <= samples` after trimming: `1 + samples // hop`, as many as the bare utterance gives
    without padding.

    Args:
        samples: Length of the whole utterance.
        mel: The parameters.

    >>> kept_frames(16_000, Mel()), kept_frames(10**6, Mel())
    (101, 1501)
    """
    return 1 + min(samples, round(mel.clip.duration_s * mel.sampling_rate)) // mel.hop


def mel_spectrogram(waveform: Waveform, mel: Mel) -> Float32[np.ndarray, "t m"]:
    """Compute the mel spectrogram of one utterance, the frames that hold speech.

    Triangular HTK filters without area normalisation over the power spectrum, so that a sine of
    amplitude a has power (a * sum(window) / 2)^2 at its bin; frames reflect at the borders of the
    *clipped* waveform; `log(max(power, floor))` if `mel.log`. As torchaudio's `MelSpectrogram`;
    librosa's own defaults differ (Slaney filters, area norm, constant padding, Hann).

    Args:
        waveform: float32 `[samples]`, the whole utterance, at `mel.sampling_rate`.
        mel: The parameters.

    Returns:
        float32 `[t, m]` with `t = kept_frames(len(waveform), mel)`.
    """
    import librosa  # here, so that `--help` does not wait for it

    frames = kept_frames(len(waveform), mel)
    power = librosa.feature.melspectrogram(
        y=_clip(waveform, mel),
        sr=mel.sampling_rate,
        n_fft=mel.window,
        hop_length=mel.hop,
        window="hamming",  # periodic: librosa asks scipy for fftbins=True
        center=True,
        pad_mode="reflect",
        power=2.0,
        n_mels=mel.bands,
        fmin=mel.f_min_hz,
        fmax=mel.f_max_hz,
        htk=True,
        norm=None,
    )[:, :frames].T
    return np.ascontiguousarray(np.log(np.maximum(power, np.float32(mel.floor))) if mel.log else power)


def _clip(waveform: Waveform, mel: Mel) -> Float32[np.ndarray, " clipped"]:
    """Apply `audio.clip`, with no more zeros than the kept frames see: the same numbers for less work.

    The last kept frame is centred no later than the end of the speech and reaches half a window beyond it.
    So only its half window of zeros, and never the reflection behind them, enters a kept frame.
    """
    seen_s = (len(waveform) + mel.window - mel.window // 2) / mel.sampling_rate
    return audio.clip(waveform, min(mel.clip.duration_s, seen_s), pad=mel.clip.pad)


@dataclass(frozen=True)
class MelView(View):
    """The log-mel spectrogram of the clipped utterance.

    Raises:
        ValueError: The configured rate is not the one that `audio.read` gives.
    """

    config: Mel = field(default_factory=Mel)

    def __post_init__(self) -> None:
        """Check the sampling rate."""
        audio.require_rate(self.name, self.config.sampling_rate)

    @property
    def name(self) -> str:
        """The name in folders, flags and records."""
        return "mel"

    @property
    def kind(self) -> Kind:
        """The shape of the features: `[t, m]`."""
        return "frames"

    @property
    def full_frames(self) -> int:
        """The number of frames of a full clip."""
        return self.config.full_frames

    def describe(self) -> Mapping[str, Any]:
        """Return everything that changes a value."""
        return {
            "kind": "mel",
            "version": VERSION,
            "libraries": series("librosa", *AUDIO_LIBRARIES),
            "audio": audio.PROCESSING,
            "dtype": "float32",
            **asdict(self.config),
        }

    def size(self, duration_s: float) -> int:
        """Estimate the bytes of an utterance."""
        return 4 * self.config.bands * kept_frames(int(duration_s * self.config.sampling_rate), self.config)

    def features(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute float32 `[t, m]` of each waveform; see `mel_spectrogram`."""
        return [mel_spectrogram(waveform, self.config) for waveform in waveforms]
