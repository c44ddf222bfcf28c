"""Reader of the user's data: a CSV or Parquet table, one row per utterance (audformat's segmented tables)."""

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcl_jax.corpora.grouping import SESSIONS, group_speakers
from pcl_jax.corpora.headers import measure
from pcl_jax.corpora.utterance import Corpus, CorpusError, Problem, Utterance

COLUMNS = ("file", "speaker", "session", "emotion", "start", "end", "id")
"""Names of the columns that are read; others are ignored. `file` and `speaker` are required."""

Row = Mapping[str, Any]

_BLANK = {"", "nat", "nan", "none", "null", "<na>"}
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

    Raises:
        CorpusError: The table is missing, of another format or without rows; it has no column `file` or
            `speaker`; or its column `session` does not name five sessions.
    """
    columns, rows = _rows(root)
    if "file" not in columns:
        listed = ", ".join(columns) or "none"
        raise CorpusError(f"{root} has no column 'file' (it has: {listed}); name each row's audio in one")
    if "speaker" not in columns:
        raise CorpusError(
            f"{root} has no column 'speaker'; folds need one, because a model tested on voices that it was "
            "trained on seems better than it is"
        )
    if not rows:
        raise CorpusError(f"{root} has no rows; give one per utterance")
    has_sessions = "session" in columns
    segments, problems = _segments(root, rows, has_sessions=has_sessions)
    durations, faults = measure(segment.path for segment in segments)
    if has_sessions:
        numbers = _session_numbers(root, {segment.session for segment in segments})
        sessions = {segment.id: numbers[segment.session] for segment in segments}
    else:
        groups = group_speakers(Counter(segment.speaker for segment in segments))
        sessions = {segment.id: groups[segment.speaker] for segment in segments}

    utterances: list[Utterance] = []
    for segment in sorted(segments, key=lambda segment: segment.id):
        if segment.path not in durations:
            continue
        end_s = segment.end_s
        if end_s is not None and abs(end_s - durations[segment.path]) <= _TOLERANCE_S:
            end_s = None
        until = durations[segment.path] if end_s is None else end_s
        if not 0 <= segment.start_s < until <= durations[segment.path]:
            problems.append(
                Problem(
                    "segment",
                    segment.id,
                    f"{segment.path}: {segment.start_s:g} s to {until:g} s is no part of its "
                    f"{durations[segment.path]:g} s, left out; mend start and end in {root.name}",
                )
            )
            continue
        utterances.append(
            Utterance(
                id=segment.id,
                path=segment.path,
                session=sessions[segment.id],
                speaker=segment.speaker,
                emotion=segment.emotion,
                duration_s=until - segment.start_s,
                start_s=segment.start_s,
                end_s=end_s,
            )
        )
    emotions = sorted({u.emotion for u in utterances if u.emotion is not None})
    targets = {emotion: (emotion,) for emotion in emotions}
    return Corpus("table", tuple(utterances), targets, (*problems, *faults))


def seconds(value: object) -> float | None:
    """Convert a number, or a time as pandas or people write it, to seconds; None where it is blank.

    Example:
        >>> seconds("0 days 00:01:01.5"), seconds(" 2.25"), seconds("NaT")
        (61.5, 2.25, None)

    Raises:
        CorpusError: The value is no time.
    """
    text = _text(value)
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
    for number, row in enumerate(rows, start=1):

        def fault(kind: str, what: str, number: int = number) -> None:
            problems.append(Problem(kind, f"row {number}", f"{root.name}, row {number}: {what}"))

        file, speaker, session = (_text(row.get(name)) for name in ("file", "speaker", "session"))
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
        whole = start_s in (None, 0.0) and end_s is None
        id = _text(row.get("id")) or (file if whole else f"{file}:{start_s or 0:g}-{_until(end_s)}")
        if id in segments:
            fault("duplicate_id", f"{id!r} stands there a second time, left out; give each row its own id")
            continue
        segments[id] = _Segment(
            id=id,
            path=root.parent / file,
            speaker=speaker,
            session=session or "",
            emotion=_text(row.get("emotion")),
            start_s=start_s or 0.0,
            end_s=end_s,
        )
    return list(segments.values()), problems


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


def _until(end_s: float | None) -> str:
    return "" if end_s is None else f"{end_s:g}"


def _text(value: object) -> str | None:
    text = "" if value is None else str(value).strip()
    return None if text.lower() in _BLANK else text


def _rows(root: Path) -> tuple[list[str], list[Row]]:
    """Read the table's column names and rows."""
    if not root.is_file():
        raise CorpusError(f"{root} is no file; give a .csv or .parquet table as --root")
    match root.suffix.lower():
        case ".csv":
            try:
                with root.open(newline="", encoding="utf-8-sig") as file:
                    reader = csv.DictReader(file)
                    return list(reader.fieldnames or ()), list(reader)
            except (UnicodeDecodeError, csv.Error) as error:
                raise CorpusError(f"{root} is no CSV in UTF-8 ({error}); save it as such") from error
        case ".parquet":
            return _parquet(root)
        case suffix:
            raise CorpusError(f"{root} is a {suffix or 'file without suffix'}; give a .csv or .parquet table")


def _parquet(root: Path) -> tuple[list[str], list[Row]]:
    # Only tables in this format pay for the import.
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(root)
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise CorpusError(f"{root} is no Parquet table ({reason}); write it again") from error
    columns: dict[str, list[Any]] = {}
    for name in set(COLUMNS) & set(table.column_names):
        column = table.column(name)
        if pa.types.is_duration(column.type):
            nanoseconds = column.cast(pa.duration("ns")).cast(pa.int64()).to_pylist()
            columns[name] = [None if value is None else value / 1e9 for value in nanoseconds]
        else:
            columns[name] = column.to_pylist()
    rows: list[Row] = [
        dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)
    ]
    return list(table.column_names), rows
