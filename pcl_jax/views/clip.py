"""Clip: the part of an utterance that the time-resolved views see."""

import math
from dataclasses import dataclass

from pcl_jax import audio

SHORTEST_S = audio.SHORTEST / audio.SAMPLING_RATE
"""Seconds of the shortest usable waveform."""


@dataclass(frozen=True)
class Clip:
    """The part of an utterance that the time-resolved views see. eGeMAPS always sees the bare utterance."""

    duration_s: float = 15.0
    """Longer utterances are cut to this [P, section 3.2]."""
    pad: bool = True
    """Zero-pad shorter ones to the same length before features are computed [P]. Only the frames
    that hold speech are stored; padding changes features near the end and, in wav2vec 2.0 base,
    through its group norm, everywhere."""

    def __post_init__(self) -> None:
        """Refuse a duration that holds no window. Raises: ValueError."""
        if not SHORTEST_S <= self.duration_s < math.inf:
            raise ValueError(f"clip.duration_s is {self.duration_s:g}: give {SHORTEST_S:g} s or more")
