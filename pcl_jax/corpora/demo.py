"""Demo corpus: synthetic speech in IEMOCAP's layout, so that everything runs without a real corpus.

It has what real corpora have: many utterances and few labels, emotions that overlap, and speakers, sentences
and rooms that matter as much as emotions do. Its recipe was written down before any result was seen and not
changed after; docs/quickstart.md has it in full. No result on the demo holds for people.
"""

import os
import shutil
import tempfile
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np

from pcl_jax.corpora import iemocap
from pcl_jax.corpora.utterance import Corpus, CorpusError

if TYPE_CHECKING:
    from pcl_jax.corpora.voice import Sentence

DEFAULT_ROOT = Path("demo")
SEED = 20_240_915
README = """pcl_jax demo corpus, version 2

SYNTHETIC: no human voice is in here. Made by pcl_jax/corpora/demo.py from seed {seed} with NumPy and
SciPy, in the layout of IEMOCAP (which is not contained, and is licensed by USC). Delete this folder
and it is made again on next use.
"""
_LOUDEST = 32_767


@dataclass(frozen=True)
class Shift:
    """Departure of a fully expressed emotion from the speaker's neutral speech; factors are logarithms."""

    pitch_st: float = 0.0
    log_range: float = 0.0
    slope_st: float = 0.0
    log_rate: float = 0.0
    level_db: float = 0.0
    tilt_octaves: float = 0.0
    roughness: float = 0.0
    """Increase of jitter and shimmer, as a share of the neutral ones."""
    breath: float = 0.0
    precision: float = 0.0

    def scaled(self, factors: np.ndarray | float) -> "Shift":
        """Return the shift with each departure times a factor, `[9]` or one for all."""
        return Shift(*(np.array(astuple(self)) * factors).tolist())


SHARES = {
    "neu": 0.20, "hap": 0.09, "exc": 0.11, "ang": 0.15, "sad": 0.15,
    "fru": 0.15, "sur": 0.05, "fea": 0.05, "dis": 0.05,
}  # fmt: skip
"""Share of each intended emotion, in IEMOCAP's codes: about IEMOCAP's own, but the rare ones less rare."""
SHIFTS = {
    "neu": Shift(),
    "hap": Shift(4.0, 0.6, 1.5, 0.1, 3.0, 0.3, 0.1, 0.0, 0.05),
    "exc": Shift(6.0, 0.7, 2.0, 0.2, 6.0, 0.5, 0.2, 0.0, 0.1),
    "ang": Shift(3.0, 0.25, 1.0, 0.1, 9.0, 1.2, 0.9, -0.01, 0.15),
    "sad": Shift(-2.0, -0.7, -2.0, -0.3, -6.0, -0.9, -0.2, 0.07, -0.25),
    "fru": Shift(1.5, 0.2, -2.0, 0.0, 4.0, 0.5, 0.5, 0.0, 0.1),
    "sur": Shift(5.0, 0.7, 6.0, 0.0, 3.0, 0.2, 0.0, 0.02, 0.0),
    "fea": Shift(4.5, -0.1, 0.5, 0.2, -1.0, -0.2, 0.7, 0.06, -0.1),
    "dis": Shift(-1.0, 0.1, -3.0, -0.15, 1.0, 0.2, 0.6, 0.01, 0.0),
}
"""Departures of each emotion. The signs for anger, sadness, happiness and fear are those of Juslin and Laukka
(2003, "Communication of emotions in vocal expression and music performance"); all else is ours."""
UNDECIDED = 0.4
"""Strength below which listeners name no emotion: the utterance is labelled `xxx`."""
SESSION_SIZES = (124, 132, 128, 136, 120)
DIALOGUES = ("impro01", "impro02", "impro05a", "script01_1", "script01_1b")
SENTENCES = 10
"""Sentences of the scripted dialogues, the same for all speakers; improvised ones are spoken once."""


@dataclass(frozen=True)
class Line:
    """Utterance before it is spoken."""

    id: str
    emotion: str
    """Code of the intended emotion."""
    strength: float
    """Strength of its expression, 0 to 1."""
    sentence: "Sentence"

    @property
    def dialogue(self) -> str:
        """Name of the dialogue, as in IEMOCAP's ids."""
        return self.id.rpartition("_")[0]

    @property
    def code(self) -> str:
        """Label in IEMOCAP's codes: that of listeners, who cannot tell a weak emotion."""
        return self.emotion if self.emotion == "neu" or self.strength >= UNDECIDED else "xxx"


def read(root: Path) -> Corpus:
    """Read the demo in `root`; synthesise it there first if the folder is missing or empty.

    Raises:
        CorpusError: `root` holds other files, or the demo of another version.
    """
    synthesise(root)
    return replace(iemocap.read(root, exclude=(), check_totals=False), name="demo", synthetic=True)


def synthesise(root: Path) -> None:
    """Write the demo to `root` unless it is complete there; if interrupted, write nothing.

    Raises:
        CorpusError: `root` holds other files, or the demo of another version, or cannot be written.
    """
    import soundfile

    readme = README.format(seed=SEED)
    if _is_complete(root, readme):
        return
    root = root.absolute()
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        workshop = Path(tempfile.mkdtemp(prefix=f".{root.name}-unfinished-", dir=root.parent))
    except OSError as error:
        reason = error.strerror
        raise CorpusError(
            f"the demo cannot be written to {root} ({reason}); choose another --root"
        ) from error
    try:
        for session in range(1, len(SESSION_SIZES) + 1):
            folder = workshop / f"Session{session}"
            evaluations: dict[str, list[str]] = {}
            for line in script(session):
                path = folder / "sentences" / "wav" / line.dialogue / f"{line.id}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                speech = waveform(line)
                soundfile.write(path, speech, 16_000, subtype="PCM_16")
                rows = evaluations.setdefault(line.dialogue, ["% [START_TIME - END_TIME] TURN_NAME EMOTION"])
                rows.append(f"[0.0000 - {len(speech) / 16_000:.4f}]\t{line.id}\t{line.code}")
            for dialogue, rows in evaluations.items():
                path = folder / "dialog" / "EmoEvaluation" / f"{dialogue}.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("\n\n".join(rows) + "\n", encoding="utf-8")
        (workshop / "README.txt").write_text(readme, encoding="utf-8")
        workshop.chmod(0o755)  # mkdtemp's folders are private
        try:
            os.rename(workshop, root)  # atomic, and onto an empty folder too
        except OSError:
            # Another process may have finished first; then its copy, the same to the bit, is as good.
            if not _is_complete(root, readme):
                raise
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def script(session: int) -> tuple[Line, ...]:
    """Return the utterances of a session (1..5) before they are spoken; deterministic."""
    from pcl_jax.corpora import voice  # SciPy's filters are slow to import

    written = np.random.default_rng([SEED, crc32(b"sentences")])
    sentences = [voice.draw_sentence(int(written.integers(5, 10)), written) for _ in range(SENTENCES)]
    rng = np.random.default_rng([SEED, crc32(b"script"), session])
    size = SESSION_SIZES[session - 1]
    emotions = rng.choice(list(SHARES), size=size, p=list(SHARES.values()))
    strengths = rng.beta(2.5, 1.5, size)
    lines: list[Line] = []
    for number in range(size):
        name = DIALOGUES[number * len(DIALOGUES) // size]
        # The letter in the dialogue's name is not the speaker: both actors speak in every dialogue.
        id = f"Ses0{session}{'FM'[number % 3 % 2]}_{name}_{'FM'[number % 2]}{number:03d}"
        spoken_once = voice.draw_sentence(int(rng.integers(5, 10)), rng)
        scripted = sentences[int(rng.integers(SENTENCES))]
        sentence = scripted if name.startswith("script") else spoken_once
        lines.append(Line(id, str(emotions[number]), float(strengths[number]), sentence))
    return tuple(lines)


def waveform(line: Line) -> np.ndarray:
    """Synthesise an utterance as int16 `[samples]` at 16 kHz; deterministic, whatever the order of calls."""
    from pcl_jax.corpora import voice

    session, letter = line.id[4], line.id.rpartition("_")[2][0]
    room = np.random.default_rng([SEED, crc32(b"room"), int(session)])
    gain_db, room_db = room.normal([0.0, -62.0], [2.0, 4.0])

    speaker = np.random.default_rng([SEED, crc32(b"speaker"), crc32(f"{session}{letter}".encode())])
    woman = letter == "F"
    f0_hz = (205 if woman else 118) * 2 ** (speaker.normal(0, 1.5) / 12)
    tract = (1.16 if woman else 1.0) * np.exp(speaker.normal(0, 0.03))
    f0_range_st, rate_hz = np.exp(speaker.normal(np.log([1.6, 4.8]), [0.2, 0.1]))
    level_db, tilt_octaves = speaker.normal([-30.0, 0.0], [2.0, 0.3])
    breath = speaker.uniform(0.02, 0.08)
    # Each speaker expresses emotions more or less strongly, and each emotion with cues of their own choice.
    expressive = np.exp(speaker.normal(0.0, 0.25))
    habits = dict(zip(SHIFTS, speaker.normal(1.0, 0.35, (len(SHIFTS), len(fields(Shift)))), strict=True))

    rng = np.random.default_rng([SEED, crc32(b"utterance"), crc32(line.id.encode())])
    shift = SHIFTS[line.emotion].scaled(line.strength * expressive * habits[line.emotion])
    # Vocal effort varies from turn to turn, and takes level, pitch and tilt along (Gramming et al. 1988).
    effort, *wander = rng.normal(0.0, 1.0, 9)
    roughness = max(0.2, 1 + shift.roughness + 0.15 * abs(wander[6]))
    manner = voice.Manner(
        f0_hz=f0_hz * 2 ** ((shift.pitch_st + 1.0 * effort + 0.8 * wander[0]) / 12),
        f0_range_st=f0_range_st * np.exp(shift.log_range + 0.15 * wander[1]),
        f0_slope_st=-1.5 + shift.slope_st + 1.0 * wander[2],
        rate_hz=rate_hz * np.exp(shift.log_rate + 0.07 * wander[3]),
        level_db=level_db + gain_db + shift.level_db + 2.5 * effort + 1.0 * wander[4],
        tilt_hz=1000 * 2 ** (tilt_octaves + shift.tilt_octaves + 0.2 * effort + 0.15 * wander[5]),
        jitter=0.008 * roughness,
        shimmer=0.05 * roughness,
        breath=max(0.005, breath + shift.breath + 0.01 * wander[7]),
        tract=tract,
        precision=float(np.clip(1 + shift.precision, 0.5, 1.3)),
        room_db=room_db,
    )
    speech = voice.speak(manner, line.sentence, rng)
    return np.round(np.clip(speech, -1, 1) * _LOUDEST).astype(np.int16)


def _is_complete(root: Path, readme: str) -> bool:
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    mark = root / "README.txt"
    if not mark.is_file() or not mark.read_text(encoding="utf-8").startswith("pcl_jax demo corpus"):
        raise CorpusError(f"{root} is not the demo; give --root a folder that is empty or does not exist yet")
    if mark.read_text(encoding="utf-8") != readme:
        raise CorpusError(f"{root} is the demo of another version; delete it, and it is made again")
    return True
