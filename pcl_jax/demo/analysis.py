"""Analysis of one recording for the page: its shape, its spectrogram, probabilities over time."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from pcl_jax.audio import SAMPLING_RATE, SHORTEST, Waveform

COLUMNS = 600
"""Columns of the pictures, at most."""
BANDS = 96
"""Rows of the spectrogram, 0 to 8 kHz."""
_BATCH = 8
"""Windows that are predicted at once; bounds memory."""
_FFT = 512
_RANGE_DB = 70.0


@dataclass(frozen=True)
class Windows:
    """Sliding windows of a recording, at most `most` of them: for longer recordings the hop grows."""

    length_s: float = 3.0
    hop_s: float = 1.0
    most: int = 60


Predict = Callable[[Sequence[Waveform]], Float[np.ndarray, "n c"]]
"""Probabilities of the classes for several waveforms."""


def analyse(waveform: Waveform, predict: Predict, windows: Windows) -> dict[str, Any]:
    """Return what the page shows of a recording, in JSON types.

    Returns:
        `duration_s`; `probabilities` of the whole; `windows`, each with `start`, `end` and `probabilities`;
        `peaks`, lowest and highest sample of each column; `spectrogram`, rows of bytes from low to high
        frequencies, in base64.
    """
    cuts = cut(len(waveform), windows)
    clips = [waveform[start:stop] for start, stop in cuts]
    whole = predict([waveform])[0]
    image = spectrogram(waveform)
    return {
        "duration_s": len(waveform) / SAMPLING_RATE,
        "probabilities": whole.tolist(),
        "windows": [
            {"start": start / SAMPLING_RATE, "end": stop / SAMPLING_RATE, "probabilities": row}
            for (start, stop), row in zip(cuts, _predict_all(clips, predict), strict=True)
        ],
        "peaks": peaks(waveform),
        "spectrogram": {
            "columns": image.shape[1],
            "bands": image.shape[0],
            "bytes": base64.b64encode(image.tobytes()).decode(),
        },
    }


def _predict_all(clips: Sequence[Waveform], predict: Predict) -> list[list[float] | None]:
    """Return the probabilities of each clip, a few at a time; None for digital silence."""
    heard = [number for number, clip in enumerate(clips) if np.abs(clip).max() > 0]
    rows: list[list[float] | None] = [None] * len(clips)
    for start in range(0, len(heard), _BATCH):
        batch = heard[start : start + _BATCH]
        for number, probabilities in zip(batch, predict([clips[n] for n in batch]), strict=True):
            rows[number] = probabilities.tolist()
    return rows


def cut(samples: int, windows: Windows) -> list[tuple[int, int]]:
    """Return start and end of each window, in samples; one window for a recording that is no longer.

    Example:
        >>> [(a / 16_000, b / 16_000) for a, b in cut(80_000, Windows())]
        [(0.0, 3.0), (1.0, 4.0), (2.0, 5.0)]
    """
    length = max(SHORTEST, round(windows.length_s * SAMPLING_RATE))
    if samples <= length:
        return [(0, samples)]
    hop = max(round(windows.hop_s * SAMPLING_RATE), -(-(samples - length) // (windows.most - 1)))
    starts = list(range(0, samples - length + 1, hop))
    return [(start, start + length) for start in starts]


def peaks(waveform: Waveform) -> list[list[float]]:
    """Return the lowest and the highest sample of each column."""
    edges = np.linspace(0, len(waveform), min(COLUMNS, len(waveform)) + 1).astype(int)[:-1]
    low, high = np.minimum.reduceat(waveform, edges), np.maximum.reduceat(waveform, edges)
    return np.round(np.stack([low, high], axis=1), 4).astype(float).tolist()


def spectrogram(waveform: Waveform) -> UInt8[np.ndarray, "bands columns"]:
    """Return the power in dB below the loudest, 70 dB as 0 to 255; the lowest band first."""
    padded = np.pad(waveform, (0, max(0, _FFT - len(waveform))))
    columns = max(1, min(COLUMNS, (len(padded) - _FFT) // (_FFT // 4) + 1))
    starts = np.linspace(0, len(padded) - _FFT, columns).astype(int)
    frames = padded[starts[:, None] + np.arange(_FFT)] * np.hanning(_FFT)
    power = np.abs(np.fft.rfft(frames, axis=1))[:, : _FFT // 2] ** 2
    edges = np.linspace(0, power.shape[1], BANDS + 1).astype(int)[:-1]
    decibels = 10 * np.log10(np.add.reduceat(power, edges, axis=1) + 1e-10)
    scaled = np.clip((decibels - decibels.max()) / _RANGE_DB + 1, 0, 1)
    return (255 * scaled.T).astype(np.uint8)
