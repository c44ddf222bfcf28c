"""View "mel": waveform -> log-mel spectrogram `[t, 64]`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import librosa
import numpy as np
from jaxtyping import Float32

from pcl_jax import audio
from pcl_jax.audio import Waveform
from pcl_jax.config import Mel
from pcl_jax.views.view import Kind, View


def kept_frames(samples: int, mel: Mel) -> int:
    """How many frames hold speech of an utterance of that many samples.

    Frame i is centred at sample `i * hop`. Kept are the frames centred no later than the speech's end,
    `i * hop <= samples` after trimming: `1 + samples // hop`, as many as the bare utterance gives
    without padding. 15 s at a hop of 160 give 1501.
    """
    return 1 + min(samples, round(mel.clip.duration_s * mel.sampling_rate)) // mel.hop


def mel_spectrogram(waveform: Waveform, mel: Mel) -> Float32[np.ndarray, "t m"]:
    """Mel spectrogram of one utterance, its frames that hold speech.

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
    """`audio.clip`, but no more zeros than the kept frames see: the same numbers for less work.

    The last kept frame is centred no later than the speech's end and reaches half a window beyond it,
    so only its half window of zeros, and never the reflection behind them, enters a kept frame.
    """
    seen_s = (len(waveform) + mel.window - mel.window // 2) / mel.sampling_rate
    return audio.clip(waveform, min(mel.clip.duration_s, seen_s), pad=mel.clip.pad)


@dataclass(frozen=True)
class MelView(View):
    """Log-mel spectrogram of the clipped utterance; read by the spectral encoder.

    Raises:
        ValueError: The configured rate is not the one that `audio.read` gives.
    """

    config: Mel = field(default_factory=Mel)

    def __post_init__(self) -> None:
        audio.require_rate(self.name, self.config.sampling_rate)

    @property
    def name(self) -> str:
        return "mel"

    @property
    def kind(self) -> Kind:
        return "frames"

    @property
    def full_frames(self) -> int:
        clip = self.config.clip
        return 1 + round(clip.duration_s * self.config.sampling_rate) // self.config.hop

    def describe(self) -> Mapping[str, Any]:
        return {"kind": "mel", "audio": audio.PROCESSING, "dtype": "float32", **asdict(self.config)}

    def size(self, duration_s: float) -> int:
        samples = int(min(duration_s, self.config.clip.duration_s) * self.config.sampling_rate)
        return 4 * self.config.bands * (1 + samples // self.config.hop)

    def features(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [mel_spectrogram(waveform, self.config) for waveform in waveforms]
