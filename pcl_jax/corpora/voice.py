"""Source-filter voice: glottal pulses through the formants of vowels (Fant 1960; Klatt 1980).

It carries an emotion in pitch, loudness, tempo, timbre and articulation, and speaks syllables, no words.
"""

from dataclasses import dataclass
from math import pi
from typing import TypeAlias

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
_NEUTRAL_HZ = np.array([500.0, 1500.0, 2500.0, 3500.0])
"""Formants of a uniform tube of 17 cm, the vowel of a mouth at rest (Fant 1960)."""
_BANDWIDTHS_HZ = np.array([60.0, 90.0, 150.0, 200.0])
_TRANSITION_S = 0.01
_CONSONANTS = 0.4
"""Share of syllables that begin with an unvoiced consonant."""
_CONSONANT_SHARE = 0.35
"""Share of such a syllable that its consonant takes."""
_HISS = 0.25
"""Level of a consonant relative to the voice."""
_FINAL = 1.4
"""Lengthening of the last syllable of a sentence (Klatt 1976)."""
_WRITTEN = 0.8
"""Correlation of a pitch accent with the one that the sentence asks for; the rest is the speaker's choice."""


@dataclass(frozen=True)
class Syllable:
    """Syllable of a sentence: whatever the voice, it is spoken like this."""

    vowel: int
    """Row of `VOWELS_HZ`."""
    consonant: bool
    """Whether it begins with an unvoiced consonant."""
    accent: float
    """Height of its pitch accent, in standard deviations of the voice's range."""
    length: float
    """Duration relative to the mean syllable."""


Sentence: TypeAlias = tuple[Syllable, ...]


def draw_sentence(syllables: int, rng: np.random.Generator) -> Sentence:
    """Draw the syllables of a sentence; the last one is lengthened."""
    lengths = np.exp(rng.normal(0.0, 0.3, syllables))
    lengths[-1] *= _FINAL
    return tuple(
        Syllable(
            int(rng.integers(len(VOWELS_HZ))), bool(rng.random() < _CONSONANTS), float(accent), float(length)
        )
        for accent, length in zip(rng.normal(0.0, 1.0, syllables), lengths, strict=True)
    )


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
    precision: float = 1.0
    """Distance of the vowels from the neutral one, as a share: below 1 is slurred, above 1 very clear."""
    room_db: float = -62.0
    """Level of the noise of the room, in dB of full scale."""


def speak(manner: Manner, sentence: Sentence, rng: np.random.Generator) -> np.ndarray:
    """Synthesise one utterance, float64 `[samples]` at 16 kHz in [-1, 1]; deterministic for a given `rng`.

    Tempo and sentence give its duration.
    """
    count = len(sentence)
    lengths_s = np.array([s.length for s in sentence]) * np.exp(rng.normal(0.0, 0.1, count)) / manner.rate_hz
    edges = np.round(np.concatenate([[0.0], np.cumsum(lengths_s)]) * SAMPLING_RATE).astype(int)
    samples = int(edges[-1])
    accents = _WRITTEN * np.array([s.accent for s in sentence])
    accents_st = manner.f0_range_st * (accents + (1 - _WRITTEN**2) ** 0.5 * rng.normal(0.0, 1.0, count))
    stress = np.exp(rng.normal(0.0, 0.2, count) + 0.04 * accents_st)
    centres = (edges[:-1] + edges[1:]) / 2
    time = np.arange(samples)
    semitones = np.interp(time, centres, accents_st) + manner.f0_slope_st * (time / samples - 0.5)
    source = _source(manner.f0_hz * 2 ** (semitones / 12), manner, rng)

    voice = np.zeros(samples)
    hiss = np.zeros(samples)
    envelope = np.zeros(samples)
    state = np.zeros((4, 2))
    for start, end, loudness, syllable in zip(edges[:-1], edges[1:], stress, sentence, strict=True):
        vowel = _NEUTRAL_HZ + manner.precision * (VOWELS_HZ[syllable.vowel] - _NEUTRAL_HZ)
        formants = vowel * manner.tract * np.exp(rng.normal(0, 0.03, 4))
        voice[start:end], state = sosfilt(_resonators(formants), source[start:end], zi=state)
        onset = round((end - start) * _CONSONANT_SHARE) if syllable.consonant else 0
        window = np.sin(pi * np.arange(onset) / max(1, onset))
        hiss[start : start + onset] = window * np.diff(rng.normal(0.0, _HISS, onset + 1))
        # The vowel opens quickly and closes slowly, and its edges are not quite silent.
        position = (np.arange(end - start - onset) + 0.5) / (end - start - onset)
        envelope[start + onset : end] = loudness * (0.03 + np.sin(pi * position**0.7) ** 1.2)
    smoothing = np.exp(-1 / (_TRANSITION_S * SAMPLING_RATE))
    speech = voice * lfilter([1 - smoothing], [1, -smoothing], envelope)
    speech = speech / np.sqrt(np.mean(speech**2)) + hiss
    speech *= 10 ** (manner.level_db / 20)
    room = rng.normal(0.0, 10 ** (manner.room_db / 20), samples)
    return np.tanh(speech + room)  # a loud voice saturates softly, as in a microphone


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
