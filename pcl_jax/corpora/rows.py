"""Rows of a CSV or Parquet table, read strictly: no cell is shifted, swallowed or guessed."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pcl_jax.corpora.spelling import tidy
from pcl_jax.corpora.utterance import CorpusError

COLUMNS = ("file", "speaker", "session", "emotion", "start", "end", "id")
"""Names of the columns that are read; others are ignored. `file` and `speaker` are required."""

Row = Mapping[str, Any]
"""Cells of a row, by the name of the column."""

SYNONYMS = {
    "file": "path filepath file_path filename file_name wav wav_path audio audio_path audio_file recording",
    "speaker": "speaker_id speakerid speakers spk spk_id spkr subject subject_id actor actor_id participant",
    "session": "sessions session_id sess",
    "emotion": "label labels emotions emotion_label emo class target category affect gold",
    "start": "start_s start_time starttime begin begin_s begin_time onset offset",
    "end": "end_s end_time endtime stop stop_s",
    "id": "ids utterance_id utt_id uttid",
}
"""Other names that people give the columns, apart by spaces."""
_REQUIRED = {
    "file": "name each row's audio in one",
    "speaker": "folds need one, because a model tested on voices that it was trained on seems too good",
}
"""Columns that a table must have -> reason or remedy."""


def read_rows(root: Path, names: Sequence[str] = COLUMNS) -> tuple[set[str], list[Row]]:
    """Read the cells of some columns, matched without regard to case and surrounding white space.

    Args:
        root: The table.
        names: Columns to read, as far as they are there.

    Returns:
        Names of the columns that are there, and the rows.

    Raises:
        CorpusError: The table is missing, of another format or without rows; its header lacks a column or
            misspells one; a row of a CSV file has another number of cells than the header, a stray quote or
            a cell with a line break.
    """
    readers: dict[str, Callable[[Path, Sequence[str]], tuple[list[str], Sequence[Row]]]]
    readers = {".csv": _csv, ".parquet": _parquet}
    suffix = root.suffix.lower()
    if not root.is_file():
        raise CorpusError(f"{root} is no file; give a .csv or .parquet table as --root")
    if suffix not in readers:
        kind = suffix or "file without suffix"
        raise CorpusError(f"{root} is a {kind}; give a .csv or .parquet table")
    try:
        columns, rows = readers[suffix](root, names)
    except OSError as error:
        raise CorpusError(f"{root} cannot be read ({error.strerror or error})") from error
    if not rows:
        raise CorpusError(f"{root} has no rows; give one per utterance")
    return set(columns), list(rows)


def _match(root: Path, header: Sequence[str], wanted: Sequence[str]) -> dict[str, int]:
    """Find columns in a header: name -> place."""
    names = [tidy(name).casefold() for name in header]
    known = "(it has: " + (", ".join(map(tidy, header)) or "none") + ")"
    for name in wanted:
        if names.count(name) > 1:
            raise CorpusError(f"{root} has {names.count(name)} columns {name!r} {known}; keep one")
        if name in names:
            continue
        others = [other for other in names if other not in COLUMNS and other not in wanted]
        similar = [other for other in others if other.replace(" ", "_") in SYNONYMS.get(name, "").split()]
        similar = similar or get_close_matches(name, others, n=1, cutoff=0.82)
        if similar:
            raise CorpusError(
                f"{root} has no column {name!r} {known}; rename {similar[0]!r} to {name!r} if it is that, "
                "else to a name that is not similar"
            )
        if name in _REQUIRED:
            separator = next((mark for mark in ";\t|" if len(header) == 1 and mark in header[0]), None)
            remedy = f"save it with commas, not {separator!r}" if separator else _REQUIRED[name]
            places = (f" {known}", "") if name == "file" else ("", f" {known}")
            raise CorpusError(f"{root} has no column {name!r}{places[0]}; {remedy}{places[1]}")
    return {name: names.index(name) for name in wanted if name in names}


def _csv(root: Path, names: Sequence[str]) -> tuple[list[str], list[Row]]:
    try:
        text = root.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{root} is no CSV in UTF-8 ({error}); save it as such") from error
    if "\0" in text:
        raise CorpusError(f"{root} is no CSV in UTF-8 (it holds NUL characters); save it as such")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    records: list[list[str]] = []
    faults: list[str] = []
    places: dict[str, int] = {}
    width = None
    try:
        for cells in reader:
            if not any(map(str.strip, cells)):  # a blank line, or a blank row of a spreadsheet
                continue
            if width is None:
                if _breaks_lines(cells):
                    raise CorpusError(f"{root}: the header has a line break in a cell; remove stray quotes")
                width, places = len(cells), _match(root, cells, names)
                continue
            records.append(cells)
            row = f"row {len(records)} (line {reader.line_num})"
            if len(cells) != width:
                faults.append(f"{row} has {len(cells)} cells, the header {width}")
            elif _breaks_lines(cells):
                faults.append(f"{row} has a cell with a line break")
    except csv.Error as error:
        raise CorpusError(
            f"{root}, row {len(records) + (width is not None)} (up to line {reader.line_num}): {error}; a "
            "quote may be stray, or a cell with quotes or commas not in quotes"
        ) from error
    if width is None:
        places = _match(root, [], names)
    if faults:
        shown = "; ".join(faults[:5]) + (f"; and {len(faults) - 5} more rows" if len(faults) > 5 else "")
        raise CorpusError(f"{root}: {shown}. Put cells with commas in quotes, and remove stray quotes")
    rows: list[Row] = [{name: cells[place] for name, place in places.items()} for cells in records]
    return list(places), rows


def _breaks_lines(cells: Sequence[str]) -> bool:
    return any(len(cell.splitlines()) > 1 or cell.endswith(("\n", "\r")) for cell in cells)


def _parquet(root: Path, names: Sequence[str]) -> tuple[list[str], list[Row]]:
    # Only tables in this format pay for the import.
    import pyarrow as pa
    from pyarrow import parquet

    columns: dict[str, list[Any]] = {}
    try:
        table = parquet.read_table(root)
        for name, place in _match(root, table.column_names, names).items():
            column = table.column(place)
            if pa.types.is_duration(column.type):
                nanoseconds = column.cast(pa.duration("ns")).cast(pa.int64()).to_pylist()
                columns[name] = [None if value is None else value / 1e9 for value in nanoseconds]
            else:
                columns[name] = column.to_pylist()
    except CorpusError:
        raise
    except Exception as error:  # a damaged file raises more than ArrowException: UnicodeDecodeError, OSError
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CorpusError(f"{root} is no Parquet table ({reason}); write it again") from error
    rows: list[Row] = [
        dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)
    ]
    return list(columns), rows
