"""Reader of the user's data: a CSV or Parquet table, one row per utterance (audformat's segmented tables)."""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import normalize

from pcl_jax.corpora.grouping import SESSIONS, group_speakers
from pcl_jax.corpora.headers import audio_problems, measure
from pcl_jax.corpora.rows import Row, read_rows
from pcl_jax.corpora.spelling import lookalikes, tidy
from pcl_jax.corpora.utterance import Corpus, CorpusError, Problem, Utterance

_BLANK_PANDAS = {"", "nat", "nan", "<na>"}  # as pandas writes what is missing
_BLANK = {*_BLANK_PANDAS, "none", "null"}
_MISSING = {"NA", "N/A", "n/a", "#N/A"}  # R, spreadsheets; a person may be called Na
# pandas writes "0 days 00:00:01.500000", people write "00:00:01.5" or "0:01.5".
_TIME = re.compile(r"(?:(\d+) days? ?)?(?:(?:(\d+):)?(\d+):(\d+(?:\.\d+)?))?")
# An end may lie this far behind the end of its file, in seconds: tables are rounded.
_TOLERANCE_S = 0.02


@dataclass(frozen=True)
class _Segment:
    id: str
    path: Path
    speaker: str
    session: str
    emotion: str | None
    start_s: float
    end_s: float | None


def read(root: Path) -> Corpus:
    """Read the table `root`, whose paths are relative to its folder.

    Columns: `file`, `speaker`, and any of `session`, `emotion`, `start`, `end`, `id`. `start` and `end` are
    seconds or times ("0 days 00:00:01.5"); blank or NaT means the file's own start or end. Rows without
    emotion are unlabelled and serve pre-training only. Without `session` speakers are grouped into five.
    All emotions are classes, sorted; `targets.with_targets` chooses and merges.

    Names are compared in Unicode's composed form, without surplus white space. Names that differ in case or
    leading zeros alone stay different and are reported; such speakers are kept in one session.

    Raises:
        CorpusError: The table is missing, of another format or without rows; it has no column `file` or
            `speaker`, or one that is probably meant to be another; a row has too many or too few cells; or
            its column `session` does not name five sessions.
    """
    columns, rows = read_rows(root)
    has_sessions = "session" in columns
    segments, problems = _segments(root, rows, has_sessions=has_sessions)
    durations, faults = measure(segment.path for segment in segments)
    if has_sessions:
        numbers = _session_numbers(root, {segment.session for segment in segments})
        sessions = {segment.id: numbers[segment.session] for segment in segments}
    else:
        sessions = _sessions(segments)
    problems += _similar_names(root, segments, sessions)

    utterances: list[Utterance] = []
    for segment in sorted(segments, key=lambda segment: segment.id):
        if segment.path not in durations:
            continue
        end_s = segment.end_s
        if end_s is not None and abs(end_s - durations[segment.path]) <= _TOLERANCE_S:
            end_s = None
        until_s = durations[segment.path] if end_s is None else end_s
        if not 0 <= segment.start_s < until_s <= durations[segment.path]:
            message = (
                f"{segment.path}: {segment.start_s:g} s to {until_s:g} s is not inside the file's "
                f"{durations[segment.path]:g} s, left out; correct start and end in {root.name}"
            )
            problems.append(Problem("segment", segment.id, message, lost=1))
            continue
        utterances.append(
            Utterance(
                id=segment.id,
                path=segment.path,
                session=sessions[segment.id],
                speaker=segment.speaker,
                emotion=segment.emotion,
                duration_s=until_s - segment.start_s,
                start_s=segment.start_s,
                end_s=end_s,
            )
        )
    emotions = sorted({u.emotion for u in utterances if u.emotion is not None})
    targets = {emotion: (emotion,) for emotion in emotions}
    problems += audio_problems(faults, (segment.path for segment in segments))
    return Corpus(corpus_name(root), tuple(utterances), targets, tuple(problems))


def corpus_name(table: Path) -> str:
    """Return the name of the corpus of a table: that of the file, and a digest of where it lies.

    Two tables never share a folder of features or runs. The name is in no identity of a run, so that a
    table that moves keeps its results, if its folders are renamed.

    Example:
        >>> corpus_name(Path("clips/mine.csv")).startswith("mine-")
        True
    """
    place = hashlib.sha256(str(table.resolve()).encode(errors="surrogateescape")).hexdigest()
    return f"{table.stem}-{place[:6]}"


def seconds(value: object) -> float | None:
    """Convert a number, or a time as pandas or people write it, to seconds; None where it is blank.

    Example:
        >>> seconds("0 days 00:01:01.5"), seconds(" 2.25"), seconds("NaT")
        (61.5, 2.25, None)

    Raises:
        CorpusError: The value is no time.
    """
    text = cell_text(value)
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        match = _TIME.fullmatch(text)
    if match is None or not any(match.groups()):
        raise CorpusError(f"{text!r} is no time; write seconds or '0 days 00:00:01.5'")
    days, hours, minutes, rest = (float(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


def _segments(root: Path, rows: Sequence[Row], *, has_sessions: bool) -> tuple[list[_Segment], list[Problem]]:
    segments: dict[str, _Segment] = {}
    problems: list[Problem] = []
    words: Counter[str] = Counter()
    for number, row in enumerate(rows, start=1):

        def fault(kind: str, what: str, lost: int = 1, number: int = number) -> None:
            message = f"{root.name}, row {number}: {what}"
            problems.append(Problem(kind, f"row {number}", message, lost=lost))

        file, speaker, session = (cell_text(row.get(name)) for name in ("file", "speaker", "session"))
        if file is None:
            fault("missing", "no file, left out")
            continue
        if speaker is None:
            fault("no_speaker", f"{file} has no speaker, left out; folds must know who speaks")
            continue
        if has_sessions and session is None:
            fault("no_session", f"{file} has no session, left out; give it its speaker's")
            continue
        try:
            start_s, end_s = seconds(row.get("start")), seconds(row.get("end"))
        except CorpusError as error:
            fault("segment", f"{file}: {error}")
            continue
        emotion = cell_text(row.get("emotion"))
        if emotion is None and (word := str(row.get("emotion") or "").strip()).lower() not in _BLANK_PANDAS:
            words[word] += 1
        complete = start_s in (None, 0.0) and end_s is None
        id = cell_text(row.get("id")) or (file if complete else f"{file}:{start_s or 0:g}-{_end(end_s)}")
        path = find_file(root.parent, str(row["file"]).strip())
        segment = _Segment(id, path, speaker, session or "", emotion, start_s or 0.0, end_s)
        if segments.setdefault(id, segment) is not segment:
            again = f"{id!r} is there a second time, left out; give each row its own id"
            fault("duplicate_id", again, lost=int(segment != segments[id]))
    for word, count in words.items():
        what = f"{root.name}: {count} rows have the emotion {word!r}, taken as unlabelled; rename it if not"
        problems.append(Problem("unlabelled", word, what))
    return list(segments.values()), problems


def find_file(folder: Path, file: str) -> Path:
    """Return the path of a file, as its folder spells it: Unicode has two forms, Windows the backslash."""
    forms = (file, normalize("NFC", file), normalize("NFD", file), file.replace("\\", "/"))
    spellings = [folder / form for form in forms]
    return next((path for path in spellings if _exists(path)), spellings[0])


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _sessions(segments: Sequence[_Segment]) -> dict[str, int]:
    """Group speakers into sessions; speakers with similar names count as one, as they may be one person."""
    speakers = {segment.speaker for segment in segments}
    persons = {name: group[0] for group in lookalikes(speakers) for name in group}
    groups = group_speakers(Counter(persons.get(s.speaker, s.speaker) for s in segments))
    return {s.id: groups[persons.get(s.speaker, s.speaker)] for s in segments}


def _similar_names(root: Path, segments: Sequence[_Segment], sessions: Mapping[str, int]) -> list[Problem]:
    """Report names that differ in case, zeros or invisible characters alone."""
    found = []
    names = {
        "speaker": [s.speaker for s in segments],
        "session": [s.session for s in segments],
        "emotion": [s.emotion for s in segments if s.emotion is not None],
        "id": [s.id for s in segments],
    }
    for column, values in names.items():
        for group in lookalikes(values):
            listed = ", ".join(map(repr, group))
            message = (
                f"{root.name}: the {column}s {listed} differ in case, zeros or invisible characters alone"
            )
            apart = column == "speaker" and len({sessions[s.id] for s in segments if s.speaker in group}) > 1
            if apart:
                message += ", and are in different sessions"
            message += "; write one name if they are one, else names that differ more"
            found.append(Problem("similar_names", group[0], message, fatal=apart))
    return found


def _session_numbers(root: Path, names: set[str]) -> dict[str, int]:
    whole = {name: int(float(name)) for name in names if re.fullmatch(r"0*[1-5](\.0)?", name)}
    if len(whole) == len(names):
        return whole
    if len(names) == SESSIONS:
        return {name: number for number, name in enumerate(sorted(names), start=1)}
    listed = ", ".join(sorted(names)[:8])
    raise CorpusError(
        f"{root} names {len(names)} sessions ({listed}); the folds need 1..{SESSIONS}, or any five names, "
        "or no session column, and then speakers are grouped"
    )


def _end(end_s: float | None) -> str:
    return "" if end_s is None else f"{end_s:g}"


def cell_text(value: Any) -> str | None:
    """Return the tidy text of a cell; None where it is blank."""
    text = "" if value is None else tidy(str(value))
    return None if text.lower() in _BLANK or text in _MISSING else text
