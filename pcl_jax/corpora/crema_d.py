"""CREMA-D corpus: 91 actors, six emotions, 7442 utterances (Cao et al., 2014)."""

import csv
import re
from pathlib import Path

from pcl_jax.corpora.file_names import FileName, Preference, read_named, unknown_name
from pcl_jax.corpora.headers import walk
from pcl_jax.corpora.targets import FOUR
from pcl_jax.corpora.utterance import Corpus, CorpusError, Problem

EMOTIONS = {
    "ANG": "angry",
    "DIS": "disgusted",
    "FEA": "fearful",
    "HAP": "happy",
    "NEU": "neutral",
    "SAD": "sad",
}

PREFERENCE = Preference(rank=lambda path: 0, reason="", formats=True)  # WAV and MP3

# Actor, sentence, intended emotion (not the one that listeners perceived), level.
_NAME = re.compile(r"(?P<actor>\d{4})_[A-Z]{3}_(?P<emotion>[A-Z]{3})_[A-Z]{1,2}")


def parse(stem: str) -> FileName | Problem:
    """Return speaker and emotion of a file name without suffix.

    Example:
        >>> parse("1001_DFA_ANG_XX")
        FileName(speaker='1001', emotion='angry')
    """
    match = _NAME.fullmatch(stem)
    if match is None:
        return unknown_name("1001_DFA_ANG_XX.wav")
    if match["emotion"] not in EMOTIONS:
        known = ", ".join(EMOTIONS)
        return Problem(
            "unknown_label", stem, f"unknown emotion {match['emotion']!r} (of {known}), left out", lost=1
        )
    return FileName(match["actor"], EMOTIONS[match["emotion"]])


def read(root: Path) -> Corpus:
    """Read CREMA-D below `root`.

    The actors' genders come from the release's `VideoDemographics.csv`; without that file sessions are
    balanced in size alone.

    Raises:
        CorpusError: `root` is not a folder, or holds no audio; files of one name differ in content.
    """
    return read_named(
        "crema_d", root, parse=parse, genders=_genders(root), targets=FOUR, preference=PREFERENCE
    )


def _genders(root: Path) -> dict[str, str]:
    genders: dict[str, str] = {}
    for path in walk(root) if root.is_dir() else ():
        if path.name != "VideoDemographics.csv":
            continue
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                for row in csv.DictReader(file, strict=True):
                    if row.get("ActorID") and row.get("Sex"):
                        genders[row["ActorID"].strip()] = row["Sex"].strip().lower()
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise CorpusError(f"{path} cannot be read ({error}); copy it again or remove it") from error
    return genders
