"""mel against its definitions, written out here in float64 with nothing of librosa."""

from dataclasses import fields, replace

import numpy as np
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

from pcl_jax import audio
from pcl_jax.config import Encoders
from pcl_jax.models.encoders import ENCODERS
from pcl_jax.views.clip import Clip
from pcl_jax.views.mel import Mel, MelView, kept_frames, mel_spectrogram


def htk_filters(mel: Mel) -> np.ndarray:
    """Triangles between points that are equidistant on 2595 log10(1 + f/700), peak 1 (HTK book, 5.4)."""
    to_mel = lambda hz: 2595 * np.log10(1 + hz / 700)  # noqa: E731
    points = np.linspace(to_mel(mel.f_min_hz), to_mel(mel.f_max_hz), mel.bands + 2)
    edges = 700 * (10 ** (points / 2595) - 1)
    bins = np.arange(mel.window // 2 + 1) * mel.sampling_rate / mel.window
    rise = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    fall = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    return np.maximum(0, np.minimum(rise, fall))


def by_definition(waveform: np.ndarray, mel: Mel) -> np.ndarray:
    """Clip with all its zeros, reflect, frame, window, transform, filter; then keep the frames of speech."""
    n = round(mel.clip.duration_s * mel.sampling_rate)
    clipped = waveform[:n].astype(np.float64)
    speech = len(clipped)
    if mel.clip.pad:
        clipped = np.concatenate([clipped, np.zeros(n - speech)])
    half = mel.window // 2
    padded = np.concatenate([clipped[half:0:-1], clipped, clipped[-2 : -half - 2 : -1]])
    window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(mel.window) / mel.window)  # periodic Hamming
    k, t = np.arange(half + 1)[:, None], np.arange(mel.window)
    transform = np.exp(-2j * np.pi * k * t / mel.window)
    frames = np.stack([padded[i : i + mel.window] * window for i in range(0, speech + 1, mel.hop)])
    power = np.abs(frames @ transform.T) ** 2 @ htk_filters(mel).T
    return np.log(np.maximum(power, mel.floor)) if mel.log else power


def speechlike(samples: int, seed: int = 0) -> np.ndarray:
    """A gliding harmonic tone in noise: loud and quiet bands, onset and end inside."""
    t = np.arange(samples) / 16_000
    tone = sum(np.sin(2 * np.pi * k * (120 * t + 30 * t**2)) / k for k in range(1, 20))
    noise = np.random.default_rng(seed).normal(size=samples)
    return (0.1 * tone * np.minimum(1, 20 * t) + 0.003 * noise).astype(np.float32)


@pytest.mark.parametrize("samples", [400, 559, 560, 561, 16_000, 239_900, 240_000, 250_000])
@pytest.mark.parametrize("pad", [True, False])
def test_equals_the_definition(samples, pad):
    mel = Mel(clip=Clip(pad=pad))
    waveform = speechlike(samples)
    values = mel_spectrogram(waveform, mel)
    expected = by_definition(waveform, mel)
    assert values.dtype == np.float32
    assert values.shape == expected.shape == (kept_frames(samples, mel), 64)
    np.testing.assert_allclose(values, expected, atol=2e-3)
    assert np.abs(values - expected).mean() < 1e-5


def test_power_equals_the_definition_and_scipys_transform():
    mel = Mel(log=False, clip=Clip(pad=False))
    waveform = speechlike(8000)
    values = mel_spectrogram(waveform, mel)
    np.testing.assert_allclose(values, by_definition(waveform, mel), rtol=1e-3, atol=1e-5)
    reflected = np.pad(waveform.astype(np.float64), 200, mode="reflect")
    # scipy centres slice p at sample 160 p: 120 zeros before put our frame 0, centred at 200, at p = 2
    transform = scipy.signal.ShortTimeFFT(scipy.signal.windows.hamming(400, sym=False), 160, 16_000)
    spectrum = transform.stft(np.pad(reflected, (120, 0)), p0=2, p1=2 + len(values))
    np.testing.assert_allclose(values.T, htk_filters(mel) @ np.abs(spectrum) ** 2, rtol=1e-3, atol=1e-5)


def test_a_sine_stands_in_its_band_at_its_power():
    mel = Mel(log=False)
    values = mel_spectrogram(
        0.5 * np.sin(2 * np.pi * 1000 / 16_000 * np.arange(16_000)).astype(np.float32), mel
    )
    # 1 kHz is bin 25 of 40 Hz; the periodic Hamming window spreads it to the neighbours and no further
    peak = (0.5 * 0.54 * 400 / 2) ** 2
    filters = htk_filters(mel)
    expected = peak * (filters[:, 25] + (0.23 / 0.54) ** 2 * (filters[:, 24] + filters[:, 26]))
    np.testing.assert_allclose(values[50], expected, rtol=1e-3, atol=1e-4)


def test_frame_counts():
    mel = Mel()
    assert kept_frames(240_000, mel) == kept_frames(10**6, mel) == 1501
    assert [kept_frames(n, mel) for n in (400, 479, 480, 16_000)] == [3, 3, 4, 101]


def test_no_more_zeros_than_the_kept_frames_see_make_no_difference():
    mel = Mel()
    for samples in (400, 12_345, 239_700, 239_801, 239_999, 240_000, 300_000):
        waveform = speechlike(samples)
        padded = audio.clip(waveform, mel.clip.duration_s, pad=mel.clip.pad)
        assert len(padded) == 240_000
        whole = mel_spectrogram(padded, Mel(clip=Clip(pad=False)))[: kept_frames(samples, mel)]
        np.testing.assert_allclose(mel_spectrogram(waveform, mel), whole, atol=1e-4)


def test_padding_touches_only_the_last_frames():
    waveform = speechlike(16_000)
    padded, bare = (mel_spectrogram(waveform, Mel(clip=Clip(pad=pad))) for pad in (True, False))
    differs = np.abs(padded - bare).max(axis=1) > 1e-3
    assert differs.nonzero()[0].tolist() == [99, 100]  # centred less than half a window before the end


@given(samples=st.integers(400, 4000), seed=st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_a_frame_knows_nothing_beyond_half_a_window(samples, seed):
    waveform = speechlike(samples, seed)
    frames = mel_spectrogram(waveform, Mel())
    longer = mel_spectrogram(np.concatenate([waveform, speechlike(1000, seed + 1)]), Mel())
    sure = max(0, (samples - 200) // 160 + 1)
    np.testing.assert_allclose(frames[:sure], longer[:sure], atol=1e-4)


def test_describe_changes_with_every_field_and_only_then():
    def other(value):
        return not value if isinstance(value, bool) else value + 1

    clips = [replace(Clip(), **{f.name: other(getattr(Clip(), f.name))}) for f in fields(Clip)]
    mels = [
        replace(Mel(), **{f.name: other(getattr(Mel(), f.name))})
        for f in fields(Mel)
        if f.name not in {"clip", "sampling_rate"}
    ]
    mels += [Mel(clip=clip) for clip in clips]
    described = [repr(MelView(mel).describe()) for mel in [Mel(), *mels]]
    assert len(set(described)) == len(described) == 10
    assert MelView(Mel()).describe() == MelView(Mel()).describe()


def test_another_rate_is_refused():
    with pytest.raises(ValueError, match="sampling_rate is 8000 Hz"):
        MelView(Mel(sampling_rate=8000))


def test_encoder_follows_the_configuration():
    encoder = ENCODERS["frames"](MelView(), Encoders(spectral_pool="flatten", init="torch", dropout=0.5))
    assert (encoder.pool, encoder.initial, encoder.dropout, encoder.flatten_frames) == (
        "flatten",
        "torch",
        0.5,
        1501,
    )
