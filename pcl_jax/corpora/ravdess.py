"""RAVDESS corpus, its speech: 24 actors, eight emotions, 1440 utterances (Livingstone and Russo, 2018).

The recordings are 48 kHz and a few are stereo; `pcl_jax.audio` makes them 16 kHz mono.
"""

import re
from pathlib import Path

from pcl_jax.corpora.file_names import FileName, Preference, read_named, unknown_name
from pcl_jax.corpora.targets import FOUR, Targets
from pcl_jax.corpora.utterance import Corpus, Problem

EMOTIONS = {
    "01": "neutral",
    "02": "calm",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fearful",
    "07": "disgusted",
    "08": "surprised",
}
TARGETS: Targets = {**FOUR, "neutral": ("neutral", "calm")}
GENDERS = {f"{actor:02d}": "male" if actor % 2 else "female" for actor in range(1, 25)}

PREFERENCE = Preference(
    rank=lambda path: {"03": 0, "01": 1}.get(path.name[:2]),
    reason="modality 03 (audio only) is preferred to the sound track of a video (01); no other is speech",
    utterance=lambda stem: stem.partition("-")[2],
)

# Modality, vocal channel (speech, song), emotion, intensity, statement, repetition, actor.
_NAME = re.compile(r"\d\d-(?P<channel>01|02)-(?P<emotion>\d\d)-\d\d-\d\d-\d\d-(?P<actor>\d\d)")


def parse(stem: str) -> FileName | Problem:
    """Return speaker and emotion of a file name without suffix.

    Example:
        >>> parse("03-01-05-02-01-02-24")
        FileName(speaker='24', emotion='angry')
    """
    match = _NAME.fullmatch(stem)
    if match is None:
        return unknown_name("03-01-05-02-01-02-24.wav")
    if match["channel"] == "02":
        return Problem("song", stem, "sung (vocal channel 02), left out; this corpus is the speech")
    if match["emotion"] not in EMOTIONS:
        return Problem(
            "unknown_label", stem, f"unknown emotion {match['emotion']!r} (of 01..08), left out", lost=1
        )
    return FileName(match["actor"], EMOTIONS[match["emotion"]])


def read(root: Path) -> Corpus:
    """Read the speech of RAVDESS below `root`; songs are left out and reported.

    A performance is taken once, though the sound track of its video (01-) may lie beside its audio (03-).

    Raises:
        CorpusError: `root` is not a folder, or holds no audio.
    """
    return read_named("ravdess", root, parse=parse, genders=GENDERS, targets=TARGETS, preference=PREFERENCE)
