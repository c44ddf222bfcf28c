"""The encoder of Whisper: a waveform -> its log-mel spectrogram -> the hidden states of every layer.

Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision". The front end is
OpenAI's `log_mel_spectrogram`, which Hugging Face's `WhisperFeatureExtractor` repeats.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float, Int

from pcl_jax.arrays import Array
from pcl_jax.views.speech_models.transformer import TransformerLayer, gelu, layer_norm, precision

SAMPLING_RATE = 16_000
"""Hz."""
WINDOW = 400
"""Samples, 25 ms: Hann window and FFT length."""
HOP = 160
"""Samples, 10 ms: one mel frame. The encoder's second convolution halves their number: 20 ms a state."""


@dataclass(frozen=True)
class WhisperArchitecture:
    """The architecture that a checkpoint's `config.json` describes. The defaults are Whisper base."""

    bands: int = 80
    """Mel bands: 80, or 128 in large-v3."""
    width: int = 512
    layers: int = 6
    heads: int = 8
    feed_forward: int = 2048
    positions: int = 1500
    """Frames of 20 ms in the window: 30 s."""
    epsilon: float = 1e-5

    @property
    def states(self) -> int:
        """Number of hidden states per frame: the input of the first layer and one per layer."""
        return 1 + self.layers

    @property
    def asks_for_mask(self) -> bool:
        """False: Whisper sees the zeros up to the end of its window, as it did in training."""
        return False

    @property
    def shortest(self) -> int:
        """Number of samples that make one frame."""
        return 1

    @property
    def longest(self) -> int:
        """Number of samples of the window: 480,000 (30 s)."""
        return self.positions * 2 * HOP

    def frames(self, samples):
        """Count the valid frames of this many samples (an integer, or an array): one for each 320 begun."""
        return -(-samples // (2 * HOP))

    def module(self, dtype: str) -> "WhisperEncoder":
        """Return the module with this architecture."""
        return WhisperEncoder(self, dtype)


def mel_filters(bands: int) -> Float[np.ndarray, "f m"]:
    """Make triangular filters on Slaney's mel scale, 0 to 8 kHz, each of unit area.

    The scale is linear (200/3 Hz a mel) below 1 kHz and logarithmic (27 mels for a factor 6.4) above;
    the filters are those of `librosa.filters.mel(sr=16000, n_fft=400, n_mels=bands)`, which OpenAI stored.
    """
    linear, knee, per_octave = 200 / 3, 15.0, np.log(6.4) / 27
    mels = np.linspace(0, knee + np.log(SAMPLING_RATE / 2 / 1000) / per_octave, bands + 2)
    edges = np.where(mels < knee, mels * linear, 1000 * np.exp((mels - knee) * per_octave))
    bins = np.fft.rfftfreq(WINDOW, 1 / SAMPLING_RATE)[:, None]
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    triangle = np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre))
    return (np.maximum(triangle, 0) * 2 / (high - low)).astype(np.float32)


def log_mel(waveforms: Float[Array, "n samples"], bands: int) -> Float[Array, "n t m"]:
    """Compute Whisper's log-mel spectrogram: a frame per `HOP` samples, without the centred STFT's last.

    log10 of the mel power, floored at 1e-10 and at 8 below its own maximum over the whole window, then
    (x + 4) / 4. float32 throughout, as in OpenAI's torch code.
    """
    t = waveforms.shape[1] // HOP
    edge = WINDOW // 2
    padded = jnp.pad(waveforms.astype(jnp.float32), ((0, 0), (edge, edge)), mode="reflect")
    index = np.arange(t)[:, None] * HOP + np.arange(WINDOW)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    spectrum = jnp.fft.rfft(padded[:, index] * hann.astype(np.float32))
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    mel = jnp.dot(power, mel_filters(bands), precision=precision("float32"))
    log = jnp.log10(jnp.maximum(mel, 1e-10))
    log = jnp.maximum(log, log.max(axis=(1, 2), keepdims=True) - 8)
    return (log + 4) / 4


def sinusoids(positions: int, width: int) -> Float[np.ndarray, "t d"]:
    """Make Whisper's positions: sines of geometrically spaced periods up to 10,000, then their cosines."""
    period = np.exp(np.log(10_000) / (width // 2 - 1) * np.arange(width // 2))
    angle = np.arange(positions)[:, None] / period
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)


class WhisperEncoder(nn.Module):
    """The network from waveforms at 16 kHz, at most the window, to all hidden states; see `__call__`."""

    architecture: WhisperArchitecture
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, waveforms: Float[Array, "n samples"], lengths: Int[Array, " n"] | None = None
    ) -> tuple[Float[Array, "n t d"], ...]:
        """Compute all hidden states.

        State 0 is the input of the first layer (after both convolutions and the positions); state i the
        output of layer i, the last after the encoder's final layer norm. These are Hugging Face's
        `hidden_states`, the last one equal to its `last_hidden_state`. The frames of `samples` are
        returned; those of the rest of the window are computed, since the model attends to them, and dropped.

        Args:
            waveforms: Mono, [-1, 1].
            lengths: Valid samples; the samples beyond are set to zero, as the rest of the window. Whisper
                masks nothing, and an utterance's states depend on its own samples alone.
        """
        a, dtype = self.architecture, self.dtype
        samples = waveforms.shape[1]
        if lengths is not None:
            waveforms = jnp.where(jnp.arange(samples) < lengths[:, None], waveforms, 0)
        window = jnp.pad(waveforms, ((0, 0), (0, a.longest - samples)))
        x = log_mel(window, a.bands).astype(dtype)
        for i, stride in enumerate((1, 2)):
            x = nn.Conv(
                a.width,
                (3,),
                (stride,),
                padding=[(1, 1)],
                dtype=dtype,
                param_dtype=dtype,
                precision=precision(dtype),
                name=f"conv_{i}",
            )(x)
            x = gelu(x)
        x = x + self.param("positions", lambda _: jnp.asarray(sinusoids(a.positions, a.width), dtype))
        kept = a.frames(samples)
        states = [x[:, :kept]]
        for i in range(a.layers):
            layer = TransformerLayer(
                a.heads, a.feed_forward, True, a.epsilon, dtype, key_bias=False, name=f"layer_{i}"
            )
            x = layer(x)
            states.append(x[:, :kept])
        states[-1] = layer_norm(a.epsilon, dtype, "output_norm")(states[-1])
        return tuple(states)
