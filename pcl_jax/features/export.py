"""Write features for other tools: CSV, Parquet or .npy, with audformat's index."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet

from pcl_jax.corpora.utterance import Corpus, Utterance
from pcl_jax.features.store import Store, StoreError, replacing
from pcl_jax.views import egemaps


def export(corpus: Corpus, view: str, stored: Store, to: Path) -> int:
    """Write features for other tools, with audformat's index `file`, `start`, `end`, and the `id`.

    Args:
        corpus: Its utterances are written, as far as they have features.
        view: Name of the view; names the columns.
        stored: The features.
        to: `NAME.csv` or `NAME.parquet` for one vector per utterance, a column per feature: time-resolved
            features become their mean over frames, hidden states that of the last one. Otherwise a folder,
            for `index.csv` and one `.npy` per utterance, as stored.

    Returns:
        The number of utterances written.

    Raises:
        StoreError: No utterance of the corpus has features here, or `to` cannot be written.
    """
    utterances = [utterance for utterance in corpus.utterances if utterance.id in stored]
    if not utterances:
        raise StoreError(
            f"{stored.folder} has no features of an utterance of {corpus.name}; extract them first"
        )
    try:
        if to.suffix in (".csv", ".parquet"):
            vectors = np.stack([_vector(stored[u.id]) for u in utterances])
            names = egemaps.names() if view == "egemaps" else [f"{view}-{i}" for i in range(vectors.shape[1])]
            columns = dict(zip(names, vectors.T, strict=True))
            write_table(to, _index(utterances, times=to.suffix == ".parquet") | columns)
        else:
            to.mkdir(parents=True, exist_ok=True)
            files = [f"{number:06d}.npy" for number in range(len(utterances))]
            for utterance, file in zip(utterances, files, strict=True):
                np.save(to / file, stored[utterance.id])
            write_table(to / "index.csv", _index(utterances, times=False) | {"features": files})
    except OSError as error:
        raise StoreError(f"{to}: cannot be written ({error.strerror or error})") from error
    return len(utterances)


def _vector(values: np.ndarray) -> np.ndarray:
    if values.ndim == 1:
        return values
    frames = values if values.ndim == 2 else values[:, -1]
    return frames.mean(axis=0, dtype=np.float32)


def _index(utterances: list[Utterance], *, times: bool) -> dict[str, Any]:
    """Return the index columns; `end` is missing where the utterance ends with its file, as in audformat."""
    segments = [(u.start_s, u.end_s) for u in utterances]
    return index([str(u.path) for u in utterances], segments, times=times) | {
        "id": [u.id for u in utterances]
    }


def index(
    files: Sequence[str], segments: Sequence[tuple[float, float | None]], *, times: bool
) -> dict[str, Any]:
    """Return audformat's index columns `file`, `start` and `end`.

    Args:
        files: File of each row.
        segments: Start and end of each row in seconds; no end is missing.
        times: Whether times become durations, for Parquet; else text that pandas reads.
    """
    columns: dict[str, Any] = {"file": list(files)}
    for place, name in enumerate(("start", "end")):
        values = [segment[place] for segment in segments]
        whole = [None if value is None else round(value * 1e9) for value in values]
        columns[name] = pa.array(whole, pa.duration("ns")) if times else [_time(ns) for ns in whole]
    return columns


def _time(nanoseconds: int | None) -> str:
    """Format a time as pandas writes and reads a timedelta; blank for none."""
    if nanoseconds is None:
        return ""
    minutes, rest = divmod(nanoseconds, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    return f"{hours // 24} days {hours % 24:02}:{minutes:02}:{rest / 1e9:012.9f}"


def write_table(to: Path, columns: Mapping[str, Any]) -> None:
    """Write columns as `.parquet` or CSV, all or nothing. Raises: OSError."""
    write = parquet.write_table if to.suffix == ".parquet" else csv.write_csv
    with replacing(to) as file:
        write(pa.table(dict(columns)), file)


def write_batches(to: Path, batches: Iterable[Mapping[str, Any]]) -> None:
    """Write a table that comes in parts as `.parquet` or CSV, all or nothing, in bounded memory.

    Raises:
        OSError: The file cannot be written.
    """
    writer: parquet.ParquetWriter | csv.CSVWriter | None = None
    with replacing(to) as file:
        for columns in batches:
            part = pa.table(dict(columns))
            if writer is None:
                make = parquet.ParquetWriter if to.suffix == ".parquet" else csv.CSVWriter
                writer = make(file, part.schema)
            writer.write_table(part)
        if writer is not None:
            writer.close()
