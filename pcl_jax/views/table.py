"""View of features that were made elsewhere: a table with one vector per utterance."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from pcl_jax.corpora.table import seconds
from pcl_jax.corpora.utterance import CorpusError, Utterance
from pcl_jax.views.table_file import FeatureTable, read_features
from pcl_jax.views.view import Kind, View

VERSION = 1
"""Version of the algorithm: raised with every change that changes a value."""

Segment: TypeAlias = tuple[tuple[str, ...], int, int | None]
"""Parts of a path, start and end in milliseconds."""


@dataclass(frozen=True)
class TableView(View):
    """Rows of a CSV or Parquet table, as `pcl features export` and audformat write them; `[d]` each.

    A row is found by its `id`, or by `file` (a path, or the end of one), `start` and `end`: seconds or times;
    blank, or the end of the file, for whole files. Every other column of numbers is a feature.

    Raises:
        ValueError: On use: as `read_features`; a row of two utterances, or an utterance without a row.
    """

    label: str
    """The name of the view."""
    table: Path
    _taken: dict[int, str] = field(default_factory=dict, init=False, compare=False, repr=False)

    @property
    def name(self) -> str:
        """The name that the user gives it: `--views NAME=TABLE`."""
        return self.label

    @property
    def kind(self) -> Kind:
        """The shape of the features: `[d]`."""
        return "vector"

    @property
    def summary(self) -> str:
        """A line that says which columns of the table are features."""
        names, left_out = self._content.names, self._content.left_out
        line = f"the view {self.name}: {len(names)} feature columns of {self.table}: {_first(names)}"
        return line + (f"; without numbers, so left out: {_first(left_out)}" if left_out else "")

    @cached_property
    def _content(self) -> FeatureTable:
        try:
            return read_features(self.table)
        except ValueError as error:
            raise ValueError(f"the view {self.name}: {error}") from error

    @cached_property
    def _rows(self) -> dict[str | Segment, int]:
        index = self._content.index_columns
        count = len(self._content.values)
        if "id" in index:
            keys: list[str | Segment] = [str(id) for id in index["id"]]
        else:
            keys = [self._segment(row, index) for row in range(count)]
        rows = {key: row for row, key in enumerate(keys)}
        if len(rows) < count:
            again = next(key for row, key in enumerate(keys) if rows[key] != row)
            raise ValueError(f"{self.table} has several rows of {_text(again)}")
        return rows

    def _segment(self, row: int, index: Mapping[str, list[Any]]) -> Segment:
        try:
            start, end = (
                _ms(seconds(index[name][row])) if name in index else None for name in ("start", "end")
            )
        except CorpusError as error:
            raise ValueError(f"{self.table}, row {row + 1}: {error}") from error
        return Path(str(index["file"][row])).parts, start or 0, end

    def describe(self) -> Mapping[str, Any]:
        """Return everything that changes a value: the content of the table.

        Raises:
            ValueError: there is no such table.
        """
        if not self.table.is_file():
            raise ValueError(f"the view {self.name}: there is no table {self.table}")
        content = hashlib.sha256(self.table.read_bytes()).hexdigest()
        return {"kind": "imported", "version": VERSION, "dtype": "float32", "table": content}

    def size(self, duration_s: float) -> int:
        """Return the bytes of one row."""
        return 4 * self._content.values.shape[1]

    def precomputed(self, utterance: Utterance) -> np.ndarray:
        """Return the row of an utterance, float32 `[d]`.

        Raises:
            ValueError: There is no such row, or it fits another utterance as well.
        """
        row = self._row_of(utterance)
        if row is None:
            raise ValueError(f"{self.table} has no row for the utterance {utterance.id} ({utterance.path})")
        self._require_same_file(row, utterance)
        if self._taken.setdefault(row, utterance.id) != utterance.id:
            raise ValueError(
                f"row {row + 1} of {self.table} fits the utterance {self._taken[row]} as well as "
                f"{utterance.id}: give ids, or longer paths"
            )
        return self._content.values[row]

    def _row_of(self, utterance: Utterance) -> int | None:
        return next((self._rows[key] for key in _keys(utterance) if key in self._rows), None)

    def _require_same_file(self, row: int, utterance: Utterance) -> None:
        """Refuse a row whose id and file are of two utterances; folders and suffixes may have changed."""
        files = self._content.index_columns.get("file")
        file = str(files[row] or "").replace("\\", "/") if files else ""
        if file and Path(file.strip()).stem != utterance.path.stem:
            raise ValueError(
                f"{self.table}, row {row + 1}: the id {utterance.id!r} is that of {utterance.path}, but the "
                f"file is {file!r}: correct one of them, or remove the column 'file'"
            )

    def require_no_labels(self, utterances: Sequence[Utterance]) -> None:
        """Refuse a column that is a number for each emotion, speaker or session, whatever its name.

        Raises:
            ValueError: There is such a column.
        """
        found = [(utterance, row) for utterance in utterances if (row := self._row_of(utterance)) is not None]
        values = self._content.values[[row for _, row in found]]
        there = [utterance for utterance, _ in found]
        for name, column in zip(self._content.names, values.T, strict=True):
            if not np.array_equal(column, np.rint(column), equal_nan=True):
                continue
            for what in ("emotion", "speaker", "session"):
                if _is_code(
                    [getattr(utterance, what) for utterance in there], column, several=what == "emotion"
                ):
                    raise ValueError(
                        f"{self.table}: the column {name!r} has one number for each {what}, so it would tell "
                        "a model what it is to find: remove it"
                    )

    def features(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Raise ValueError: the features are in the table."""
        raise ValueError(f"the features of {self.name} are read from {self.table}, not computed")


def _is_code(names: Sequence[Any], column: np.ndarray, *, several: bool) -> bool:
    """Return whether each name has one number; with `several`, names may share it, as where one is marked."""
    pairs = {
        pair
        for pair in zip(names, column.tolist(), strict=True)
        if pair[0] is not None and pair[1] == pair[1]
    }
    numbers = {number for _, number in pairs}
    one_each = len(pairs) == len({name for name, _ in pairs}) < len(names) / 2
    return one_each and len(numbers) > 1 and (several or len(numbers) == len(pairs))


def _keys(utterance: Utterance) -> list[str | Segment]:
    """List the keys under which a row of this utterance may stand, the plainest first."""
    end_s = utterance.start_s + utterance.duration_s if utterance.end_s is None else utterance.end_s
    ends = {_ms(utterance.end_s), _ms(end_s)}
    parts = utterance.path.absolute().parts
    tails = [parts[i:] for i in range(len(parts))]
    return [utterance.id, *((tail, _ms(utterance.start_s) or 0, end) for tail in tails for end in ends)]


def _ms(time_s: float | None) -> int | None:
    return None if time_s is None else round(1000 * time_s)


def _text(key: str | Segment) -> str:
    return repr(key) if isinstance(key, str) else repr(str(Path(*key[0])))


def _first(names: Sequence[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
