"""View of features that were made elsewhere: a table with one vector per utterance."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet

from pcl_jax.corpora.table import seconds
from pcl_jax.corpora.utterance import Utterance
from pcl_jax.views.view import Kind, View

INDEX = ("id", "file", "start", "end")
"""Columns that say which utterance a row is of; every other column of numbers is a feature."""
Segment = tuple[tuple[str, ...], int, int | None]
"""Parts of a path, start and end in milliseconds."""


@dataclass(frozen=True)
class TableView(View):
    """Rows of a CSV or Parquet table, as `pcl features export` and audformat write them; `[d]` each.

    A row is found by its `id`, or by `file` (a path, or the end of one), `start` and `end`: seconds or times;
    blank, or the file's own end, for whole files. Columns that hold no numbers are passed over.

    Raises:
        ValueError: on use: no such table, no index, no features, or an utterance without a row of its own.
    """

    label: str
    """Its name among the views."""
    table: Path
    _taken: dict[int, str] = field(default_factory=dict, init=False, compare=False, repr=False)

    @property
    def name(self) -> str:
        return self.label

    @property
    def kind(self) -> Kind:
        return "vector"

    @cached_property
    def _columns(self) -> pa.Table:
        reader = {".csv": csv.read_csv, ".parquet": parquet.read_table}.get(self.table.suffix.lower())
        if reader is None or not self.table.is_file():
            raise ValueError(f"the view {self.name}: {self.table} is no .csv or .parquet file")
        try:
            columns: pa.Table = reader(self.table)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{self.table} cannot be read ({str(error).splitlines()[0]})") from error
        if not {"id", "file"} & set(columns.column_names):
            raise ValueError(f"{self.table} has neither a column 'id' nor 'file': whose features are they?")
        return columns

    @cached_property
    def _values(self) -> np.ndarray:
        """float32 `[n, d]`."""
        numbers = [
            column.to_numpy()
            for name, column in zip(self._columns.column_names, self._columns.columns, strict=True)
            if name not in INDEX and (pa.types.is_floating(column.type) or pa.types.is_integer(column.type))
        ]
        if not numbers:
            raise ValueError(f"{self.table} has no column of numbers besides {', '.join(INDEX)}")
        return np.stack(numbers, axis=1).astype(np.float32)

    @cached_property
    def _rows(self) -> dict[str | Segment, int]:
        index: dict[str, list[Any]] = {}
        for name in set(INDEX) & set(self._columns.column_names):
            column = self._columns.column(name)
            if pa.types.is_duration(column.type):
                nanoseconds = column.cast(pa.duration("ns")).cast(pa.int64()).to_pylist()
                index[name] = [None if value is None else value / 1e9 for value in nanoseconds]
            else:
                index[name] = column.to_pylist()
        count = self._columns.num_rows
        if "id" in index:
            keys: list[str | Segment] = [str(id) for id in index["id"]]
        else:
            blank: list[Any] = [None] * count
            starts, ends = index.get("start", blank), index.get("end", blank)
            keys = [
                (Path(str(file)).parts, _ms(seconds(start)) or 0, _ms(seconds(end)))
                for file, start, end in zip(index["file"], starts, ends, strict=True)
            ]
        rows = {key: row for row, key in enumerate(keys)}
        if len(rows) < count:
            again = next(key for row, key in enumerate(keys) if rows[key] != row)
            raise ValueError(f"{self.table} has several rows of {_text(again)}")
        return rows

    def describe(self) -> Mapping[str, Any]:
        if not self.table.is_file():
            raise ValueError(f"the view {self.name}: there is no table {self.table}")
        content = hashlib.sha256(self.table.read_bytes()).hexdigest()
        return {"kind": "imported", "dtype": "float32", "table": content}

    def size(self, duration_s: float) -> int:
        return 4 * self._values.shape[1]

    def precomputed(self, utterance: Utterance) -> np.ndarray:
        row = next((self._rows[key] for key in _keys(utterance) if key in self._rows), None)
        if row is None:
            raise ValueError(f"{self.table} has no row for the utterance {utterance.id} ({utterance.path})")
        if self._taken.setdefault(row, utterance.id) != utterance.id:
            raise ValueError(
                f"row {row + 1} of {self.table} is as much of the utterance {self._taken[row]} as of "
                f"{utterance.id}: give ids, or longer paths"
            )
        return self._values[row]

    def features(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        raise ValueError(f"the features of {self.name} are given, not computed")


def _keys(utterance: Utterance) -> list[str | Segment]:
    """What a row of this utterance may say, the plainest first."""
    end_s = utterance.start_s + utterance.duration_s if utterance.end_s is None else utterance.end_s
    ends = {_ms(utterance.end_s), _ms(end_s)}
    parts = utterance.path.absolute().parts
    tails = [parts[i:] for i in range(len(parts))]
    return [utterance.id, *((tail, _ms(utterance.start_s) or 0, end) for tail in tails for end in ends)]


def _ms(time_s: float | None) -> int | None:
    return None if time_s is None else round(1000 * time_s)


def _text(key: str | Segment) -> str:
    return repr(key) if isinstance(key, str) else repr(str(Path(*key[0])))
