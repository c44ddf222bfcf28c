"""Source-filter voice: glottal pulses through the formants of vowels (Fant 1960; Klatt 1980).

It carries an emotion in pitch, loudness, tempo and timbre, and speaks no words.
"""

from dataclasses import dataclass
from math import pi

import numpy as np
from scipy.signal import lfilter, sosfilt

SAMPLING_RATE = 16_000

# First four formants in Hz of a man's vowels: Peterson and Barney (1952), the fourth rounded.
VOWELS_HZ = np.array(
    [
        [270, 2290, 3010, 3600],
        [530, 1840, 2480, 3500],
        [730, 1090, 2440, 3400],
        [570, 840, 2410, 3300],
        [300, 870, 2240, 3300],
        [490, 1350, 1690, 3300],
        [660, 1720, 2410, 3500],
    ],
    dtype=np.float64,
)
_BANDWIDTHS_HZ = np.array([60.0, 90.0, 150.0, 200.0])
_TRANSITION_S = 0.01
# Share of syllables that begin with an unvoiced consonant, share of the syllable that the consonant takes,
# and its level relative to the voice.
_CONSONANTS = 0.4
_CONSONANT_SHARE = 0.35
_HISS = 0.25


@dataclass(frozen=True)
class Manner:
    """Parameters of the voice for one utterance."""

    f0_hz: float
    """Mean fundamental frequency."""
    f0_range_st: float
    """Standard deviation of the accents, in semitones."""
    f0_slope_st: float
    """Change of pitch from the first to the last sample, in semitones; falling is negative."""
    rate_hz: float
    """Syllables per second."""
    level_db: float
    """Level, in dB of full scale (RMS of the voiced part)."""
    tilt_hz: float
    """Corner of the glottal low-pass: low is soft, high is pressed."""
    jitter: float
    """Standard deviation of a period, as a share of it."""
    shimmer: float
    """Standard deviation of a pulse's amplitude, as a share of it."""
    breath: float
    """Aspiration noise, as a share of the voice."""
    tract: float
    """Formants relative to a man's: about 1.17 for a woman."""


def speak(manner: Manner, duration_s: float, rng: np.random.Generator) -> np.ndarray:
    """Synthesise one utterance, float64 `[samples]` at 16 kHz in [-1, 1]; deterministic for a given `rng`."""
    samples = round(duration_s * SAMPLING_RATE)
    edges = _syllables(samples, manner.rate_hz, rng)
    accents_st = rng.normal(0.0, manner.f0_range_st, len(edges) - 1)
    stress = np.exp(rng.normal(0.0, 0.2, len(edges) - 1) + 0.04 * accents_st)
    centres = (edges[:-1] + edges[1:]) / 2
    time = np.arange(samples)
    semitones = np.interp(time, centres, accents_st) + manner.f0_slope_st * (time / samples - 0.5)
    source = _source(manner.f0_hz * 2 ** (semitones / 12), manner, rng)

    voice = np.zeros(samples)
    hiss = np.zeros(samples)
    envelope = np.zeros(samples)
    state = np.zeros((4, 2))
    for start, end, loudness in zip(edges[:-1], edges[1:], stress, strict=True):
        formants = VOWELS_HZ[rng.integers(len(VOWELS_HZ))] * manner.tract * np.exp(rng.normal(0, 0.03, 4))
        voice[start:end], state = sosfilt(_resonators(formants), source[start:end], zi=state)
        # Some syllables begin with an unvoiced consonant.
        onset = round((end - start) * _CONSONANT_SHARE) if rng.random() < _CONSONANTS else 0
        window = np.sin(pi * np.arange(onset) / max(1, onset))
        hiss[start : start + onset] = window * np.diff(rng.normal(0.0, _HISS, onset + 1))
        # The vowel opens quickly and closes slowly, and its edges are not quite silent.
        position = (np.arange(end - start - onset) + 0.5) / (end - start - onset)
        envelope[start + onset : end] = loudness * (0.03 + np.sin(pi * position**0.7) ** 1.2)
    smoothing = np.exp(-1 / (_TRANSITION_S * SAMPLING_RATE))
    speech = voice * lfilter([1 - smoothing], [1, -smoothing], envelope)
    speech = speech / np.sqrt(np.mean(speech**2)) + hiss
    speech *= 10 ** (manner.level_db / 20)
    room = rng.normal(0.0, 10 ** (-62 / 20), samples)
    return np.tanh(speech + room)  # a loud voice saturates softly, as in a microphone


def _syllables(samples: int, rate_hz: float, rng: np.random.Generator) -> np.ndarray:
    """Draw the syllables' borders, as sample indices int `[syllables + 1]`."""
    count = max(1, round(samples / SAMPLING_RATE * rate_hz))
    lengths = np.exp(rng.normal(0.0, 0.3, count))
    borders = np.concatenate([[0.0], np.cumsum(lengths)]) / lengths.sum()
    return np.round(borders * samples).astype(int)


def _source(f0_hz: np.ndarray, manner: Manner, rng: np.random.Generator) -> np.ndarray:
    """Compute the derivative of a Rosenberg glottal flow with jitter and breath: float64 `[samples]`."""
    phase = np.cumsum(f0_hz) / SAMPLING_RATE
    pulses = int(phase[-1]) + 2
    # Moving the instants of closure by their jitter bends the phase between them.
    instants = np.arange(pulses) + rng.normal(0.0, manner.jitter, pulses)
    phase = np.interp(phase, np.maximum.accumulate(instants), np.arange(pulses))
    cycle = np.minimum(phase.astype(int), pulses - 1)
    amplitude = (1 + rng.normal(0.0, manner.shimmer, pulses))[cycle]
    part = phase - cycle
    opening, closing = 0.4, 0.16
    flow = np.where(
        part < opening,
        0.5 * (1 - np.cos(pi * part / opening)),
        np.where(part < opening + closing, np.cos(pi / 2 * (part - opening) / closing), 0.0),
    )
    pole = np.exp(-2 * pi * manner.tilt_hz / SAMPLING_RATE)
    pulse = np.asarray(lfilter([1 - pole], [1, -pole], np.diff(flow * amplitude, prepend=0.0)))
    pulse /= np.sqrt(np.mean(pulse**2))
    # Air rushes while the glottis is open.
    noise = rng.normal(0.0, manner.breath, len(pulse)) * (0.4 + flow)
    return pulse + noise


def _resonators(formants_hz: np.ndarray) -> np.ndarray:
    """Return Klatt's digital resonators in cascade, as second-order sections float64 `[formants, 6]`."""
    radius = np.exp(-pi * _BANDWIDTHS_HZ / SAMPLING_RATE)
    b = 2 * radius * np.cos(2 * pi * np.minimum(formants_hz, 7000.0) / SAMPLING_RATE)
    c = -(radius**2)
    zeros, ones = np.zeros(4), np.ones(4)
    return np.stack([1 - b - c, zeros, zeros, ones, -b, -c], axis=1)
