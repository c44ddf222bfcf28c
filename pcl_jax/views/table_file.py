"""Reader of a feature table: CSV or Parquet -> the text of its index columns, the numbers of the others."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float32
from pyarrow import csv, parquet

from pcl_jax.corpora.rows import SYNONYMS

INDEX = ("id", "file", "start", "end")
"""Columns that say to which utterance a row belongs; every other column of numbers is a feature."""

_SUSPECTS = frozenset(
    [
        *("index", "idx", "unnamed", "level", "row", "rownum", "rownames"),
        *("emotion", "classes", "y", "gt", "ground", "truth", "true", "sentiment"),
        *("valence", "arousal", "dominance"),
        *("speaker", "gender", "sex", "age"),
        *("session", "fold", "split"),
        *" ".join(SYNONYMS[name] for name in ("emotion", "speaker", "session")).replace("_", " ").split(),
    ]
)
"""Words that name a row number, a label, or something else that a classifier must not see."""
_FILLERS = frozenset(["id", "ids", "no", "nr", "num", "number", "code", "name"])
_FEWEST_ROWS = 10
"""Rows from which on the numbers from one row to the next are no accident."""
_NUMBER = re.compile(r"\s*[-+]?((\d+\.?\d*|\.\d+)(e[-+]?\d+)?|nan|inf|infinity)\s*", re.IGNORECASE)


class FeatureTable(NamedTuple):
    """The content of a feature table."""

    index_columns: Mapping[str, list[Any]]
    """Cells of the index columns that there are: text, or seconds (durations in Parquet)."""
    values: Float32[np.ndarray, "n d"]
    """The features; NaN where a cell is blank."""
    names: tuple[str, ...]
    """Names of the `d` feature columns."""
    left_out: tuple[str, ...]
    """Names of the columns that hold no numbers."""


def read_features(path: Path) -> FeatureTable:
    """Read a feature table.

    Args:
        path: A `.csv` (UTF-8, commas) or `.parquet` file with a column `id` or `file`.

    Raises:
        ValueError: In one line: there is no such file or it cannot be read; it has no index, no rows or no
            column of numbers; a column of numbers has no name, a name twice, or the name of a row number, a
            label or a speaker; a cell among numbers is no finite number.
    """
    if not path.is_file():
        raise ValueError(f"there is no table {path}")
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise ValueError(f"{path} is no .csv or .parquet file")
    try:
        table = _read_csv(path) if path.suffix.lower() == ".csv" else parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read ({str(error).splitlines()[0]})") from error
    table = table.rename_columns([_column_name(name) for name in table.column_names])
    names = table.column_names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path} has two columns of the name {twice[0]!r}: rename or remove one")
    if not {"id", "file"} & set(names):
        listed = ", ".join(repr(name[:40]) for name in names[:5]) + (", ..." if len(names) > 5 else "")
        raise ValueError(
            f"{path} has no column 'id' or 'file' that names the utterance of a row; separated by commas, "
            f"it has {listed}"
        )
    if not table.num_rows:
        raise ValueError(f"{path} has no rows: give one per utterance")
    numbers: dict[str, np.ndarray] = {}
    for name in names:
        if name not in INDEX and (column := _numbers(path, name, table.column(name))) is not None:
            numbers[name] = column
    if not numbers:
        raise ValueError(f"{path} has no column of numbers besides {', '.join(INDEX)}")
    return FeatureTable(
        {name: _index_cells(table.column(name)) for name in INDEX if name in names},
        np.stack(list(numbers.values()), axis=1),
        tuple(numbers),
        tuple(name for name in names if name not in (*INDEX, *numbers)),
    )


def _read_csv(path: Path) -> pa.Table:
    with csv.open_csv(path) as reader:
        names = reader.schema.names
    # Index cells stay as they are written: "000" is no number. The types of the others are inferred.
    text = {name: pa.string() for name in names if _column_name(name) in INDEX}
    table = csv.read_csv(path, convert_options=csv.ConvertOptions(column_types=text))
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_string(column.type):
            row = pc.index(pc.match_substring(column, "\n"), True).as_py()  # pyright: ignore
            if row >= 0:
                raise pa.ArrowInvalid(
                    f"column {name!r}, row {row + 1}: the cell holds a line break, as after a stray quote"
                )
    return table


def _column_name(name: str) -> str:
    """Strip a name; write those of the index in lower case."""
    name = name.strip()
    return name.lower() if name.lower() in INDEX else name


def _index_cells(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_duration(column.type):
        nanoseconds = column.cast(pa.duration("ns")).cast(pa.int64()).to_pylist()
        return [None if value is None else value / 1e9 for value in nanoseconds]
    return column.to_pylist()


def _numbers(path: Path, name: str, column: pa.ChunkedArray) -> Float32[np.ndarray, " n"] | None:
    """Return the numbers of a column; None if it holds none."""
    kind = column.type
    if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        numbers = column.cast(pa.float64(), safe=False).to_numpy()  # they become float32 anyway
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        numbers = _parse(path, name, column.to_pylist())
    else:
        numbers = None
    if numbers is None:
        return None
    if _counts_rows(numbers):
        raise ValueError(f"{path}: the column {name!r} looks like a row number in its values: remove it")
    if _names_no_feature(name):
        raise ValueError(
            f"{path}: the column {name!r} looks like a row number, a label or a speaker, not like a feature: "
            "remove it, or rename it if it is one"
        )
    with np.errstate(over="ignore"):
        found = numbers.astype(np.float32)
    if len(infinite := np.flatnonzero(np.isinf(found))):
        row = infinite[0]
        raise ValueError(
            f"{path}: column {name!r}, row {row + 1} is {numbers[row]:g}: features must be finite"
        )
    return found


def _names_no_feature(name: str) -> bool:
    """Return whether a name is that of a row number, a label or a speaker: `label_id`, `emotionLabel`."""
    parts = re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    words = [word for word in parts if word and word not in _FILLERS]
    return not name or name.lower() in _FILLERS or (bool(words) and _SUSPECTS.issuperset(words))


def _counts_rows(numbers: np.ndarray) -> bool:
    """Return whether a column numbers the rows, in any order."""
    return len(numbers) >= _FEWEST_ROWS and np.array_equal(
        np.sort(numbers), np.min(numbers) + np.arange(len(numbers))
    )


def _parse(path: Path, name: str, cells: list[str | None]) -> np.ndarray | None:
    """Convert text to numbers; None if most of it is something else."""
    filled = [(row, cell) for row, cell in enumerate(cells) if cell is not None and cell.strip()]
    # A decimal comma is a number to its author.
    like_numbers = [bool(_NUMBER.fullmatch(cell.replace(",", "."))) for _, cell in filled]
    if 2 * sum(like_numbers) <= len(filled):
        return None
    for row, cell in filled:
        if not _NUMBER.fullmatch(cell):
            raise ValueError(f"{path}: column {name!r}, row {row + 1} is {cell!r}, which is no number")
    numbers = np.full(len(cells), np.nan)
    for row, cell in filled:
        numbers[row] = float(cell)
    return numbers
