"""EMO-DB corpus: ten German actors, seven emotions, 535 utterances (Burkhardt et al., Interspeech 2005)."""

import re
from pathlib import Path

from pcl_jax.corpora.file_names import FileName, Preference, read_named, unknown_name
from pcl_jax.corpora.targets import FOUR
from pcl_jax.corpora.utterance import Corpus, Problem

EMOTIONS = {
    "W": "angry",  # Wut; the letters are German
    "L": "bored",
    "E": "disgusted",
    "A": "fearful",
    "F": "happy",
    "T": "sad",
    "N": "neutral",
}
GENDERS: dict[str, str] = {
    **dict.fromkeys(("03", "10", "11", "12", "15"), "male"),
    **dict.fromkeys(("08", "09", "13", "14", "16"), "female"),
}


def _rank(path: Path) -> int | None:
    folders = path.parts[:-1]
    return None if "laryngo" in folders else int("wav" not in folders)


PREFERENCE = Preference(_rank, "the speech is in the folder `wav` where there is one, and never in `laryngo`")

# Speaker, text, emotion, version: 03a01Fa.
_NAME = re.compile(r"(?P<speaker>\d\d)[ab]\d\d(?P<emotion>[A-Z])[a-z]")


def parse(stem: str) -> FileName | Problem:
    """Return speaker and emotion of a file name without suffix.

    Example:
        >>> parse("03a01Fa")
        FileName(speaker='03', emotion='happy')
    """
    match = _NAME.fullmatch(stem)
    if match is None:
        return unknown_name("03a01Fa.wav")
    if match["emotion"] not in EMOTIONS:
        known = "".join(EMOTIONS)
        return Problem(
            "unknown_label", stem, f"unknown emotion {match['emotion']!r} (of {known}), left out", lost=1
        )
    return FileName(match["speaker"], EMOTIONS[match["emotion"]])


def read(root: Path) -> Corpus:
    """Read EMO-DB below `root`; each session is one man and one woman.

    The speech is taken from `wav/` where other folders hold files of the same names: version 2.0 has the
    electroglottograms in `laryngo/`.

    Raises:
        CorpusError: `root` is not a folder, or holds no audio.
    """
    return read_named("emodb", root, parse=parse, genders=GENDERS, targets=FOUR, preference=PREFERENCE)
