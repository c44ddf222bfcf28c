"""Clip: the part of an utterance that the time-resolved views see."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Clip:
    """The part of an utterance that the time-resolved views see. eGeMAPS always sees the bare utterance."""

    duration_s: float = 15.0
    """Longer utterances are cut to this [P, section 3.2]."""
    pad: bool = True
    """Zero-pad shorter ones to the same length before features are computed [P]. Only the frames
    that hold speech are stored; padding changes features near the end and, in wav2vec 2.0 base,
    through its group norm, everywhere."""
