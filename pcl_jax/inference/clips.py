"""Clips: what a command predicts on, made of files, folders and tables; long recordings in windows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pcl_jax import audio
from pcl_jax.audio import AudioError, one_line
from pcl_jax.corpora.headers import audio_files, measure
from pcl_jax.corpora.rows import read_rows
from pcl_jax.corpora.spelling import tidy
from pcl_jax.corpora.table import cell_text, find_file, seconds
from pcl_jax.corpora.utterance import Corpus, CorpusError, Utterance

TABLES = (".csv", ".parquet")
LONG_S = 15.0
"""Seconds of a clip that time-resolved views see: what is longer deserves windows."""
_TOLERANCE_S = 0.02
"""Seconds by which the rounded end of a segment may lie behind the end of its file."""
_SEEKABLE_FROM = 8
"""Windows of one file from which on a copy that can be read from any place is made, where the file cannot."""


class Window(NamedTuple):
    """Sliding windows over recordings, in seconds."""

    length_s: float
    hop_s: float

    def starts(self, duration_s: float) -> Iterator[float]:
        """Yield the starts of the windows of a recording; the last window ends where the recording does.

        >>> list(Window(5.0, 2.0).starts(10.5)), list(Window(5.0, 2.0).starts(3.0))
        ([0.0, 2.0, 4.0, 5.5], [0.0])
        """
        if duration_s <= self.length_s:
            yield 0.0
            return
        count = int((duration_s - self.length_s) / self.hop_s + 1e-9) + 1
        yield from (self.hop_s * number for number in range(count))
        rest = duration_s - self.length_s
        if rest - self.hop_s * (count - 1) > _TOLERANCE_S:
            yield rest


@dataclass(frozen=True)
class Recording:
    """One file, or one row of a table, as the user named it."""

    name: str
    path: Path
    start_s: float = 0.0
    end_s: float | None = None
    speaker: str = ""


@dataclass(frozen=True)
class Clips:
    """Clips in the order of the output, as a corpus without labels."""

    corpus: Corpus
    """Its ids are the numbers of the clips."""
    recordings: tuple[Recording, ...]
    """The recording of each clip."""
    faults: tuple[str, ...]
    """Recordings that cannot be used, one line each."""
    remarks: tuple[str, ...]
    """Facts that the reader of the predictions must know, one line each."""

    def segment(self, number: int) -> tuple[float, float]:
        """Return start and end of a clip in its file, in seconds."""
        utterance = self.corpus.utterances[number]
        return utterance.start_s, utterance.start_s + utterance.duration_s


def read_recordings(paths: Sequence[Path], speaker: str = "") -> tuple[list[Recording], list[str]]:
    """List the recordings of files, folders and tables, each once, and what cannot be listed.

    Args:
        paths: Audio files, folders (all audio below them, sorted) and tables (`.csv`, `.parquet`) with the
            columns `file` and, for segments, `start` and `end`, as audformat writes them.
        speaker: Column of the tables that says who speaks; empty: none.
    """
    found: list[Recording] = []
    faults: list[str] = []
    for path in paths:
        try:
            if path.suffix.lower() in TABLES:
                _read_table(path, speaker, found, faults)
            elif path.is_dir():
                files = audio_files(path)
                found += [Recording(str(file), file) for file in files]
                if not files:
                    faults.append(f"{path}: no audio file is in this folder")
            else:
                found.append(Recording(str(path), path))
        except CorpusError as error:
            faults.append(str(error))
    return list(dict.fromkeys(found)), [one_line(fault) for fault in faults]


def _read_table(table: Path, speaker: str, found: list[Recording], faults: list[str]) -> None:
    column = tidy(speaker).casefold()
    columns, rows = read_rows(table, ("file", "start", "end", *([column] if column else [])))
    if column and column not in columns:
        raise CorpusError(f"{table} has no column {speaker!r}; --speaker names one of its columns")
    for number, row in enumerate(rows, start=1):
        file = cell_text(row.get("file"))
        try:
            start_s, end_s = seconds(row.get("start")) or 0.0, seconds(row.get("end"))
        except CorpusError as error:
            faults.append(f"{table.name}, row {number}: {error}")
            continue
        if file is None:
            faults.append(f"{table.name}, row {number}: no file")
            continue
        path = find_file(table.parent, str(row["file"]).strip())
        who = cell_text(row.get(column)) or "" if column else ""
        found.append(Recording(file, path, start_s, end_s, who))


def cut(recordings: Sequence[Recording], window: Window | None, work: Path) -> Clips:
    """Cut recordings into clips; a recording that cannot be read is a fault.

    Args:
        recordings: See `read_recordings`.
        window: None: one clip for each recording.
        work: Folder for copies of long files of formats that can only be read from the beginning.
    """
    durations, bad = measure(recording.path for recording in recordings)
    faults = [f"{r.name}: {fault_of(bad[r.path])}" for r in recordings if r.path in bad]
    utterances: list[Utterance] = []
    owners: list[Recording] = []
    copies: dict[Path, Path] = {}
    long = 0
    for recording in recordings:
        if recording.path in bad:
            continue
        try:
            span_s = _span(recording, durations[recording.path])
            starts = list(window.starts(span_s)) if window else [0.0]
            if len(starts) >= _SEEKABLE_FROM and recording.path not in copies:
                copies[recording.path] = _seekable(recording.path, work)
        except (AudioError, CorpusError) as error:
            faults.append(f"{recording.name}: {fault_of(error)}")
            continue
        long += window is None and span_s > LONG_S
        length_s = min(window.length_s, span_s) if window else span_s
        for start_s in starts:
            begin_s = recording.start_s + start_s
            whole = recording.end_s is None and start_s + length_s >= span_s
            utterance = Utterance(
                f"{len(utterances):07d}",
                copies.get(recording.path, recording.path),
                session=1,
                speaker=recording.speaker,
                emotion=None,
                duration_s=length_s,
                start_s=begin_s,
                end_s=None if whole else begin_s + length_s,
            )
            utterances.append(utterance)
            owners.append(recording)
    remark = (
        f"{long} recordings are longer than {LONG_S:g} s, of which most views see the beginning only: "
        "--window 5 --hop 1 predicts over their whole length"
    )
    corpus = Corpus("clips", tuple(utterances), {})
    return Clips(corpus, tuple(owners), tuple(map(one_line, faults)), (remark,) if long else ())


def fault_of(error: AudioError | CorpusError) -> str:
    """Return fault and remedy without the file, whose name may be that of a copy."""
    if isinstance(error, CorpusError):
        return str(error)
    if error.kind == "missing":
        return error.fault
    return f"{error.fault}; {error.remedy.partition(', or pass --on-bad-audio')[0]}"


def _span(recording: Recording, total_s: float) -> float:
    """Return the duration of a recording's segment of its file. Raises: CorpusError, if it lies outside."""
    end_s = total_s if recording.end_s is None else recording.end_s
    if not 0 <= recording.start_s < min(end_s, total_s) or end_s > total_s + _TOLERANCE_S:
        raise CorpusError(f"{recording.start_s:g} s to {end_s:g} s is not inside the file's {total_s:g} s")
    return min(end_s, total_s) - recording.start_s


def _seekable(path: Path, work: Path) -> Path:
    """Return the file, or a copy of it whose windows can be read without decoding all before them."""
    if audio.is_seekable(path):
        return path
    digest = audio.file_digests([path], workers=1)[path]
    if isinstance(digest, AudioError):
        raise digest
    copy = work / f"{digest[:16]}.w64"
    if not copy.exists():
        audio.copy_decoded(path, copy)
    return copy
