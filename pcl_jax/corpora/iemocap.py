"""IEMOCAP corpus as released: 151 dialogues of ten actors in five sessions (Busso et al., 2008)."""

import re
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

from pcl_jax.corpora.headers import audio_problems, measure
from pcl_jax.corpora.targets import Targets
from pcl_jax.corpora.utterance import Corpus, CorpusError, Problem, Utterance

EMOTIONS = {
    "neu": "neutral",
    "hap": "happy",
    "exc": "excited",
    "ang": "angry",
    "sad": "sad",
    "fru": "frustrated",
    "fea": "fearful",
    "sur": "surprised",
    "dis": "disgusted",
    "oth": "other",
    "xxx": "undecided",  # the annotators found no majority
}
TARGETS: Targets = {
    "neutral": ("neutral",),
    "angry": ("angry",),
    "sad": ("sad",),
    "happy": ("happy", "excited"),
}
EXCLUDED = ("Ses05M_script01_1",)
"""Dialogues left out by the paper (footnote 1): a third trial of a script that session 5 has twice."""

# Session -> dialogues, all utterances, then per class as in TARGETS (method.md, section 9).
RELEASE = {
    1: (28, 1819, {"neutral": 384, "angry": 229, "sad": 194, "happy": 278}),
    2: (30, 1811, {"neutral": 362, "angry": 137, "sad": 197, "happy": 327}),
    3: (32, 2136, {"neutral": 320, "angry": 240, "sad": 305, "happy": 286}),
    4: (30, 2103, {"neutral": 258, "angry": 327, "sad": 143, "happy": 303}),
    5: (31, 2170, {"neutral": 384, "angry": 170, "sad": 245, "happy": 442}),
}
# The excluded part of session 5.
REPEATED = (1, 80, {"neutral": 6, "angry": 21, "sad": 5, "happy": 0})

# Ses05M_script01_1b_F012: the first letter is the actor with the markers, the last one the speaker.
_ID = re.compile(r"(?P<dialogue>Ses0(?P<session>[1-5])[FM]_\w+)_(?P<letter>[FM])\w+")


def read(root: Path, *, exclude: Collection[str] = EXCLUDED, check_totals: bool = True) -> Corpus:
    """Read the release below `root`: the folder with Session1..5, its parent, or the parent of that.

    Args:
        root: Folder of the release, or a folder up to two levels above it.
        exclude: Ids of dialogues to leave out.
        check_totals: Compare the counts with those of the release, and report every difference.

    Raises:
        CorpusError: `root` holds no Session1..5, or several releases.
    """
    release = find_release(root)
    labels: dict[str, str | None] = {}
    problems: list[Problem] = []
    paths: dict[str, Path] = {}
    audio: set[Path] = set()
    dialogues: Counter[int] = Counter()
    for session in RELEASE:
        folder = release / f"Session{session}"
        audio.update(_visible((folder / "sentences" / "wav").glob("*/*.wav")))
        # Not recursive: the subfolders hold each annotator's own votes.
        for evaluation in _visible((folder / "dialog" / "EmoEvaluation").glob("*.txt")):
            dialogue = evaluation.stem
            if dialogue in exclude:
                continue
            dialogues[session] += 1
            for id, emotion, problem in _labels(evaluation):
                if problem is not None:
                    problems.append(problem)
                if id is None or (match := _ID.fullmatch(id)) is None or int(match["session"]) != session:
                    what = f"{evaluation}: {id!r} is no utterance of session {session}, left out"
                    problems.append(Problem("unknown_name", str(id), what, lost=1))
                elif id in labels:
                    what = f"{evaluation}: {id} is labelled a second time, left out; keep one line"
                    lost = int(labels[id] != emotion)
                    problems.append(Problem("duplicate_id", id, what, lost=lost))
                else:
                    labels[id] = emotion
                    paths[id] = folder / "sentences" / "wav" / match["dialogue"] / f"{id}.wav"

    for path in sorted(audio - set(paths.values())):
        if path.stem.rpartition("_")[0] not in exclude:
            what = f"{path}: in no EmoEvaluation/*.txt, left out; restore its label or ignore it"
            problems.append(Problem("no_label", path.stem, what, lost=1))
    for id, path in sorted(paths.items()):
        if path not in audio:
            what = f"{path}: labelled {labels[id]}, but there is no such file; restore it"
            problems.append(Problem("no_audio", id, what, lost=1))
    durations, faults = measure(path for path in paths.values() if path in audio)
    utterances = tuple(
        Utterance(
            id=id,
            path=path,
            session=int(id[4]),
            speaker=id[4] + id.rpartition("_")[2][0],
            emotion=labels[id],
            duration_s=durations[path],
        )
        for id, path in sorted(paths.items())
        if path in durations
    )
    corpus = Corpus("iemocap", utterances, TARGETS, (*problems, *audio_problems(faults, paths.values())))
    if not check_totals:
        return corpus
    differences = _differences(corpus, dialogues, excluded=EXCLUDED[0] in exclude)
    return Corpus("iemocap", utterances, TARGETS, (*corpus.problems, *differences))


def find_release(root: Path) -> Path:
    """Find the folder that holds Session1..5: `root`, or a folder up to two levels below it.

    Raises:
        CorpusError: No such folder, or several at the same level.
    """
    for depth in ("", "*/", "*/*/"):
        found = sorted({path.parent for path in _visible(root.glob(f"{depth}Session[1-5]")) if path.is_dir()})
        if len(found) > 1:
            listed = ", ".join(map(str, found))
            raise CorpusError(f"{root} holds several releases ({listed}); give one of them as --root")
        if found:
            return found[0]
    raise CorpusError(
        f"no Session1..5 in {root} or two levels below; give the folder IEMOCAP_full_release as --root"
    )


def _visible(paths: Iterable[Path]) -> list[Path]:
    # macOS writes `._NAME` beside each file it copies, and pathlib's glob finds them.
    return sorted(path for path in paths if not path.name.startswith("."))


def _labels(evaluation: Path) -> Iterable[tuple[str | None, str | None, Problem | None]]:
    """Return id, emotion and problem of each summary line: `[start - end] <tab> id <tab> code <tab> ...`.

    Every other line is one annotator's vote. Valence, activation and dominance are not read: the last is
    blank in places, as is the whole bracket.
    """
    for line in evaluation.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.startswith("["):
            continue
        cells = [cell.strip() for cell in line.split("\t")]
        id = cells[1] if len(cells) > 1 else None
        code = cells[2] if len(cells) > 2 else ""
        problem = None
        if code not in EMOTIONS:
            known = ", ".join(EMOTIONS)
            what = f"{evaluation}: {id} has the unknown code {code!r} (of {known}); taken as unlabelled"
            problem = Problem("unknown_label", str(id), what)
        yield id, EMOTIONS.get(code), problem


def _differences(corpus: Corpus, dialogues: Counter[int], *, excluded: bool) -> Iterable[Problem]:
    """Report counts that differ from the release, per session."""
    for session, (expected_dialogues, expected_all, expected_classes) in RELEASE.items():
        utterances = [u for u in corpus.utterances if u.session == session]
        class_counts = Counter(corpus.label(u) for u in utterances)
        excess = REPEATED if excluded and session == 5 else (0, 0, dict.fromkeys(TARGETS, 0))
        counts = [
            ("dialogues", dialogues[session], expected_dialogues - excess[0]),
            ("utterances", len(utterances), expected_all - excess[1]),
            *(
                (name, class_counts[index], expected_classes[name] - excess[2][name])
                for index, name in enumerate(TARGETS)
            ),
        ]
        for name, found, expected in counts:
            if found != expected:
                what = f"session {session}: {found} {name}, the release has {expected}"
                yield Problem("total", f"session {session} {name}", f"{what}; compare with a fresh copy")
