"""Labelling tables: CSV files that name clips to label and take the labels, one row per clip.

A filled one is a table of its own (`pcl_jax.corpora.table`), and its labels can be joined to the table that
the clips came from. A label is never lost: files are replaced as a whole, and one that holds labels is not
replaced by a new list of clips.
"""

import csv
import io
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pcl_jax.corpora.rows import read_rows
from pcl_jax.corpora.spelling import tidy
from pcl_jax.corpora.table import seconds
from pcl_jax.corpora.utterance import Corpus, CorpusError, Utterance
from pcl_jax.runs.files import write_atomically

COLUMNS = ("file", "start", "end", "speaker", "emotion", "id")
"""Columns of a labelling table: those of a table of the user's own data."""


@dataclass(frozen=True)
class Clip:
    """A row of a labelling table."""

    id: str
    file: str
    """Path, relative to the folder of the labelling table or absolute."""
    speaker: str
    start_s: float = 0.0
    end_s: float | None = None
    """End in its file; None for the end of the file."""
    emotion: str = ""
    """The label; empty until someone gives one."""


def clips_of(utterances: Iterable[Utterance], table: Path) -> list[Clip]:
    """Return the clips of utterances, without labels, for a labelling table at this path."""
    return [
        Clip(u.id, _relative(u.path, table.parent), u.speaker, u.start_s, u.end_s, "") for u in utterances
    ]


def require_unlabelled(table: Path) -> None:
    """Refuse a path that a new labelling table must not take.

    Raises:
        CorpusError: The file there holds labels, or is another one; the name does not end in .csv.
    """
    if table.suffix.lower() != ".csv":
        raise CorpusError(f"--out {table}: a labelling table is a CSV file; give a name that ends in .csv")
    labelled = sum(bool(clip.emotion) for clip in read(table)) if table.exists() else 0
    if labelled:
        raise CorpusError(f"{table} holds {labelled} labels, which are not overwritten; give another --out")


def require_writable(table: Path) -> None:
    """Refuse a table that would lose a column if it were written again.

    Raises:
        CorpusError: It has another column than `COLUMNS`, or cannot be read.
    """
    read(table)
    with table.open(encoding="utf-8-sig", newline="") as file:
        header = [tidy(name).casefold() for name in next(csv.reader(file))]
    if extra := [name for name in header if name not in COLUMNS]:
        raise CorpusError(f"{table} has a column {extra[0]!r}, which would be lost; remove it")


def write(table: Path, clips: Iterable[Clip]) -> None:
    """Write a labelling table, so that a kill leaves the old one or the new one, whole."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for clip in clips:
        end = "" if clip.end_s is None else repr(clip.end_s)
        start = repr(clip.start_s) if clip.start_s or end else ""
        writer.writerow([clip.file, start, end, clip.speaker, clip.emotion, clip.id])
    write_atomically(table, text.getvalue().encode("utf-8", "surrogateescape"))


def read(table: Path) -> list[Clip]:
    """Read a labelling table, filled or not.

    Raises:
        CorpusError: It is no such table: a column is missing, a time is none, an id is there twice.
    """
    columns, rows = read_rows(table)
    if lacking := [name for name in ("id", "emotion") if name not in columns]:
        raise CorpusError(
            f"{table} has no column {lacking[0]!r}, so it is no labelling table of `pcl suggest`"
        )
    clips: dict[str, Clip] = {}
    for row in rows:
        cells = {name: str(row.get(name) or "") for name in COLUMNS}
        start_s, end_s = seconds(cells["start"]) or 0.0, seconds(cells["end"])
        id, emotion = tidy(cells["id"]), tidy(cells["emotion"])
        clip = Clip(id, cells["file"].strip(), tidy(cells["speaker"]), start_s, end_s, emotion)
        if not clip.id or not clip.file:
            raise CorpusError(f"{table}: a row has no {'id' if clip.file else 'file'}; restore it")
        if clips.setdefault(clip.id, clip) is not clip:
            raise CorpusError(f"{table} holds {clip.id!r} twice; keep one of the rows")
    return list(clips.values())


def join(corpus: Corpus, tables: Iterable[Path]) -> tuple[Corpus, set[str]]:
    """Return a corpus with the labels of labelling tables; its classes are all emotions, sorted.

    Returns:
        The corpus, and the ids of clips that the tables name and nobody has labelled.

    Raises:
        CorpusError: A table names an id that the corpus lacks, or contradicts a label.
    """
    emotions = {u.id: u.emotion for u in corpus.utterances}
    skipped: set[str] = set()
    for table in tables:
        for clip in read(table):
            if clip.id not in emotions:
                raise CorpusError(
                    f"{table}: {corpus.name} has no utterance {clip.id!r}; it has another table's"
                )
            known = emotions[clip.id]
            if clip.emotion and known not in (None, clip.emotion):
                raise CorpusError(
                    f"{table}: {clip.id!r} is {clip.emotion!r} here and {known!r} before; keep one label"
                )
            if clip.emotion:
                emotions[clip.id] = clip.emotion
            elif known is None:
                skipped.add(clip.id)
    return relabel(corpus, emotions), {id for id in skipped if emotions[id] is None}


def relabel(corpus: Corpus, emotions: Mapping[str, str | None]) -> Corpus:
    """Return a corpus with these emotions, by id, all of which are classes."""
    utterances = tuple(replace(u, emotion=emotions[u.id]) for u in corpus.utterances)
    present = sorted({emotion for emotion in emotions.values() if emotion is not None})
    return replace(corpus, utterances=utterances, targets={emotion: (emotion,) for emotion in present})


def _relative(path: Path, folder: Path) -> str:
    """Return a path as a table in `folder` names it: relative if it lies beneath, else absolute."""
    absolute, base = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    return absolute.relative_to(base).as_posix() if absolute.is_relative_to(base) else str(absolute)
