"""Demo corpus: synthetic speech in IEMOCAP's layout, so that everything runs without a real corpus.

Ten emotions differ in pitch, melody, tempo, level and timbre as acted ones do (the signs follow Juslin and
Laukka 2003, the sizes do not), and they overlap. No result on the demo holds for people.
"""

import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from zlib import crc32

import numpy as np

from pcl_jax.corpora import iemocap
from pcl_jax.corpora.utterance import Corpus, CorpusError

DEFAULT_ROOT = Path("demo")
SEED = 20_240_915
README = """pcl_jax demo corpus, version 1

SYNTHETIC: no human voice is in here. Made by pcl_jax/corpora/demo.py from seed {seed} with NumPy and
SciPy, in the layout of IEMOCAP (which is not contained, and is licensed by USC). Delete this folder
and it is made again on next use.
"""
_LOUDEST = 32_767


@dataclass(frozen=True)
class Shift:
    """Departure of a fully expressed emotion from the speaker's neutral speech."""

    pitch_st: float = 0.0
    range_factor: float = 1.0
    slope_st: float = 0.0
    rate_factor: float = 1.0
    level_db: float = 0.0
    tilt_octaves: float = 0.0
    roughness: float = 0.0
    """Increase of jitter and shimmer, as a share of the neutral ones."""
    breath: float = 0.0


# Share of each emotion, in IEMOCAP's codes: about IEMOCAP's own, but the rare ones less rare.
SHARES = {
    "neu": 0.19, "hap": 0.08, "exc": 0.10, "ang": 0.15, "sad": 0.15,
    "fru": 0.11, "xxx": 0.10, "sur": 0.04, "fea": 0.04, "dis": 0.04,
}  # fmt: skip
SHIFTS = {
    "neu": Shift(),
    "hap": Shift(4.0, 1.8, 1.5, 1.1, 3.0, 0.3, 0.1, 0.0),
    "exc": Shift(6.0, 2.0, 2.0, 1.2, 6.0, 0.5, 0.2, 0.0),
    "ang": Shift(3.0, 1.3, -3.0, 1.12, 9.0, 1.2, 0.9, -0.01),
    "sad": Shift(-2.0, 0.5, -2.0, 0.75, -6.0, -0.9, 0.4, 0.07),
    "fru": Shift(1.5, 1.2, -2.0, 0.98, 4.0, 0.5, 0.5, 0.0),
    "xxx": Shift(1.0, 1.1, 0.0, 1.0, 0.5, 0.0, 0.1, 0.01),
    "sur": Shift(5.0, 2.0, 6.0, 1.0, 3.0, 0.2, 0.0, 0.02),
    "fea": Shift(4.5, 0.9, 0.5, 1.25, -1.0, -0.2, 0.7, 0.06),
    "dis": Shift(-1.0, 1.1, -3.0, 0.85, 1.0, 0.2, 0.6, 0.01),
}
SESSION_SIZES = (116, 124, 120, 128, 112)
DIALOGUES = ("impro01", "impro02", "impro05a", "script01_1", "script01_1b")


@dataclass(frozen=True)
class Line:
    """Scripted utterance: id, emotion code and duration."""

    id: str
    code: str
    duration_s: float

    @property
    def dialogue(self) -> str:
        """Name of the dialogue, as in IEMOCAP's ids."""
        return self.id.rpartition("_")[0]


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
                soundfile.write(path, waveform(line), 16_000, subtype="PCM_16")
                rows = evaluations.setdefault(line.dialogue, ["% [START_TIME - END_TIME] TURN_NAME EMOTION"])
                rows.append(f"[0.0000 - {line.duration_s:.4f}]\t{line.id}\t{line.code}")
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
    """Return the utterances of a session (1..5) with emotions and durations; deterministic."""
    rng = np.random.default_rng([SEED, crc32(b"script"), session])
    size = SESSION_SIZES[session - 1]
    codes = rng.choice(list(SHARES), size=size, p=list(SHARES.values()))
    durations_s = np.clip(np.exp(rng.normal(np.log(1.75), 0.38, size)), 1.0, 4.0)
    lines: list[Line] = []
    for number in range(size):
        # The letter in the dialogue's name is not the speaker: both actors speak in every dialogue.
        dialogue = f"Ses0{session}{'FM'[number % 3 % 2]}_{DIALOGUES[number * len(DIALOGUES) // size]}"
        id = f"{dialogue}_{'FM'[number % 2]}{number:03d}"
        lines.append(Line(id, str(codes[number]), round(float(durations_s[number]), 3)))
    return tuple(lines)


def waveform(line: Line) -> np.ndarray:
    """Synthesise an utterance as int16 `[samples]` at 16 kHz; deterministic, whatever the order of calls."""
    from pcl_jax.corpora import voice  # SciPy's filters are slow to import

    session, letter = line.id[4], line.id.rpartition("_")[2][0]
    speaker = np.random.default_rng([SEED, crc32(b"speaker"), crc32(f"{session}{letter}".encode())])
    woman = letter == "F"
    f0_hz = (205 if woman else 118) * 2 ** (speaker.normal(0, 1.5) / 12)
    tract = (1.16 if woman else 1.0) * np.exp(speaker.normal(0, 0.03))
    f0_range_st, rate_hz = np.exp(speaker.normal(np.log([1.6, 4.4]), [0.2, 0.1]))
    level_db, tilt_octaves = speaker.normal([-27.0, 0.0], [2.0, 0.3])
    breath = speaker.uniform(0.02, 0.08)

    rng = np.random.default_rng([SEED, crc32(b"utterance"), crc32(line.id.encode())])
    shift = SHIFTS[line.code]
    # Emotions overlap: most are expressed only in part, and every utterance varies at random.
    strength = rng.beta(3.5, 1.5)
    wander = rng.normal(0.0, 0.65, 8)
    roughness = 1 + strength * shift.roughness + 0.25 * abs(wander[6])
    manner = voice.Manner(
        f0_hz=f0_hz * 2 ** ((strength * shift.pitch_st + 1.2 * wander[0]) / 12),
        f0_range_st=f0_range_st * shift.range_factor**strength * np.exp(0.25 * wander[1]),
        f0_slope_st=-1.5 + strength * shift.slope_st + 1.5 * wander[2],
        rate_hz=rate_hz * shift.rate_factor**strength * np.exp(0.1 * wander[3]),
        level_db=level_db + strength * shift.level_db + 2.5 * wander[4],
        tilt_hz=1000 * 2 ** (tilt_octaves + strength * shift.tilt_octaves + 0.3 * wander[5]),
        jitter=0.008 * roughness,
        shimmer=0.05 * roughness,
        breath=max(0.005, breath + strength * shift.breath + 0.015 * wander[7]),
        tract=tract,
    )
    speech = voice.speak(manner, line.duration_s, rng)
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
