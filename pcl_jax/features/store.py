"""The feature store: ragged, memory-mapped, content-addressed.

There is one folder per corpus and view, `<features>/<corpus>/<view>-<digest>/`. The digest covers everything
that changes a value, so features of different parameters never share a folder. The folder holds
`part-00000.arrow, ...`: Arrow IPC files of one record batch, with a row per utterance,

    id     string              unique in its corpus
    audio  string              sha256 of the file's bytes, start and end
    shape  list<int32>         [t, ...] or [d]
    crc32  uint32              of the values' bytes
    values large_list<float>   float16 or float32, C order

and the view's description in the schema's metadata. Parts are written under a temporary name, synced
and renamed, so a part is whole or it does not exist. A row of a later part replaces an earlier one.
Processes that share a corpus write parts of different names, `part-00000-3of8.arrow`: no merge is needed.
"""

import fcntl
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from shutil import rmtree
from types import TracebackType
from typing import IO, Any, NamedTuple, TypeAlias
from urllib.parse import quote

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from pcl_jax import config
from pcl_jax.arrays import aligned

_VERSIONS = ("pcl-jax", "numpy", "soundfile", "soxr", "librosa", "opensmile")


Shard: TypeAlias = tuple[int, int]
"""One share of a corpus: (3, 8) is the third of eight."""


class StoreError(RuntimeError):
    """Raised when a feature store cannot be read or written: names the file, the reason and the remedy."""


class Row(NamedTuple):
    """The features of one utterance."""

    id: str
    audio_digest: str
    values: np.ndarray
    """`[t, ...]` or `[d]`, float16 or float32."""


def folder_name(corpus: str) -> str:
    """Return the name of a corpus's folder of features.

    >>> folder_name("my corpus/2024")
    'my corpus%2F2024'
    """
    return quote(corpus, safe=" ")


def place(features: Path, corpus: str, name: str, describe: Mapping[str, Any]) -> Path:
    """Return the folder of a corpus's features of one view, made with these parameters."""
    return features / folder_name(corpus) / f"{name}-{config.digest(dict(describe))}"


def open(folder: Path) -> "Store":
    """Open a store for reading.

    Only ids and shapes are read. The values stay on disk until they are asked for; they are then mapped into
    memory without copying. Rows that are appended later are seen by opening again.

    Raises:
        StoreError: No such folder; a part that is truncated or damaged.
    """
    return Store(folder)


def parts(folder: Path) -> list[Path]:
    """List the part files of a store, oldest first."""
    return sorted(folder.glob("part-*.arrow"))


class Store(Mapping[str, np.ndarray]):
    """A read-only mapping of ids to features: `store[id]` is `[t, ...]` or `[d]`, mapped from the file."""

    def __init__(self, folder: Path):
        """Open a folder; see `open`."""
        if not folder.is_dir():
            raise StoreError(f"{folder}: no features here; extract them first (pcl extract)")
        self.folder = folder
        self._parts = [_Part(path) for path in parts(folder)]
        self._where = {
            id: (part, row) for part in self._parts for row, id in enumerate(part.column("id").to_pylist())
        }

    def __getitem__(self, id: str) -> np.ndarray:
        """Return the features of an utterance, not copied. Raises: KeyError."""
        part, row = self._where[id]
        return part.row(row)

    def __contains__(self, id: object) -> bool:
        """Return whether an utterance has features here."""
        return id in self._where

    def __iter__(self) -> Iterator[str]:
        """Iterate over the ids, in the order in which they were first written."""
        return iter(self._where)

    def __len__(self) -> int:
        """Return the number of utterances."""
        return len(self._where)

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids, in the order in which they were first written."""
        return tuple(self._where)

    @property
    def metadata(self) -> dict[str, Any]:
        """The `view`, `describe` and `versions` of the newest part. Empty when nothing was ever written."""
        return self._parts[-1].metadata if self._parts else {}

    @property
    def bytes_on_disk(self) -> int:
        """The size of all parts, replaced rows included."""
        return sum(part.path.stat().st_size for part in self._parts)

    def audio_digest(self, id: str) -> str:
        """Return the sha256 of the audio that the features were computed from: file bytes, start, end."""
        part, row = self._where[id]
        return part.column("audio")[row].as_py()

    def packed(
        self, ids: Sequence[str], *, out: np.ndarray | None = None
    ) -> tuple[Float[np.ndarray, "rows ..."], Int[np.ndarray, " n"]]:
        """Concatenate the features of these utterances, copied once.

        Args:
            ids: The utterances, in the order of the result; an id may come twice.
            out: `[at least rows, ...]`, written to and returned as far as needed. Reading batch after batch
                into one buffer is twice as fast as into fresh memory, whose pages must be made first.

        Returns:
            Time-resolved views: values `[sum t, ...]` and lengths `[n]` in frames. Views of one vector
            per utterance: values `[n, d]` and lengths that are all zero, as in `batches.Packed`.

        Raises:
            KeyError: An id that is not in the store.
            ValueError, TypeError: `out` is too small or of another shape; of another dtype.
        """
        rows = [self[id] for id in ids]
        if not rows:
            like = next(iter(self.values()), np.zeros((0, 0), np.float32))
            rows = [like[:0] if like.ndim > 1 else like[None][:0]]
            lengths = np.zeros(0, int)
        elif rows[0].ndim == 1:
            rows, lengths = [row[None] for row in rows], np.zeros(len(rows), int)
        else:
            lengths = np.array([len(row) for row in rows])
        count = sum(map(len, rows))
        out = aligned((count, *rows[0].shape[1:]), rows[0].dtype) if out is None else out[:count]
        return np.concatenate(rows, out=out, casting="no"), lengths

    def verify(self) -> list[str]:
        """Compare every row with its checksum, also replaced ones; return a line for each that differs."""
        return [fault for part in self._parts for fault in part.verify()]


def verify_part(path: Path) -> list[str]:
    """Return a line for each row of a part that differs from its checksum. Raises: StoreError, as `open`."""
    return _Part(path).verify()


class _Part:
    """One mapped part file."""

    def __init__(self, path: Path):
        self.path = path
        try:
            with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as reader:
                self._batch = reader.get_batch(0)
            # Offsets and text only: no byte of the values is touched.
            self._batch.validate(full=True)
            values = self.column("values")
            self._values = values.values.to_numpy(zero_copy_only=True)
            self._starts = values.offsets.to_numpy()
            shape = self.column("shape")
            self._shapes, self._shape_starts = shape.values.to_numpy(), shape.offsets.to_numpy()
        except (pa.ArrowException, OSError, KeyError, IndexError) as error:
            raise StoreError(
                f"{path}: truncated or damaged ({_first_line(error)}); delete this file and extract again: "
                "only its rows are computed again"
            ) from error

    def verify(self) -> list[str]:
        return [
            f"{self.path}: the values of {self.column('id')[row].as_py()!r} differ from their checksum"
            for row, expected in enumerate(self.column("crc32").to_numpy())
            if zlib.crc32(self.row(row).data) != expected
        ]

    def column(self, name: str) -> Any:
        return self._batch.column(name)

    @property
    def metadata(self) -> dict[str, Any]:
        return {key.decode(): json.loads(value) for key, value in (self._batch.schema.metadata or {}).items()}

    def row(self, row: int) -> np.ndarray:
        shape = self._shapes[self._shape_starts[row] : self._shape_starts[row + 1]]
        return self._values[self._starts[row] : self._starts[row + 1]].reshape(shape)


class Writer:
    """A writer that appends parts to a store: one at a time per folder, or per share; others may read.

    Args:
        folder: See `place`.
        name: The view's name.
        describe: The view's description; `dtype` is that of the values on disk.
        shard: The share of the corpus's utterances that the rows belong to. Writers of different shares work
            at once; a writer of the whole excludes them all.

    Raises:
        StoreError: Another process is writing the same; the folder cannot be written; the disk is full.
            Earlier parts are safe in every case.
    """

    def __init__(self, folder: Path, name: str, describe: Mapping[str, Any], *, shard: Shard | None = None):
        """Make the folder, lock it, and remove the temporary files of killed writers."""
        self.folder = folder
        self._metadata = {
            "view": name,
            "describe": dict(describe),
            "versions": {package: version(package) for package in _VERSIONS},
        }
        self._dtype = np.dtype(describe["dtype"])
        self._share = "" if shard is None else "-{}of{}".format(*shard)
        self._locks: list[IO[bytes]] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{folder}: cannot be written ({error.strerror})") from error
        try:
            self._locks.append(_lock(folder / ".lock", fcntl.LOCK_EX if shard is None else fcntl.LOCK_SH))
            if shard is not None:
                self._locks.append(_lock(folder / f".lock{self._share}", fcntl.LOCK_EX))
        except StoreError:
            self.__exit__(None, None, None)
            raise
        # Left by killed writers: while we hold the lock, no other process writes these.
        for stray in folder.glob(f".part-*{self._share}.arrow"):
            stray.unlink()

    def __enter__(self) -> "Writer":
        """Return the writer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the locks."""
        for lock in self._locks:
            lock.close()

    def write(self, rows: Sequence[Row]) -> Path | None:
        """Write one part, all or nothing; no part for no rows."""
        if not rows:
            return None
        # Above the numbers of all shares: of two rows of one id, the later part counts.
        number = 1 + max((_number(path) for path in self.folder.glob("part-*.arrow")), default=-1)
        target = self.folder / f"part-{number:05d}{self._share}.arrow"
        batch = _batch(rows, self._dtype, self._metadata)
        try:
            with replacing(target) as file, pa.ipc.new_file(file, batch.schema) as writer:
                writer.write_batch(batch)
        except OSError as error:
            raise StoreError(
                f"{target}: cannot be written ({error.strerror or error}); the parts before it are safe: "
                "make room or repair the folder and run again"
            ) from error
        return target


def remove(folder: Path) -> None:
    """Delete a store. Raises: StoreError, if another process is writing to it."""
    with _lock(folder / ".lock", fcntl.LOCK_EX):
        rmtree(folder)


def _lock(path: Path, how: int) -> IO[bytes]:
    """Open and lock a file; the lock lasts until the file is closed."""
    try:
        file = path.open("ab")
    except OSError as error:
        raise StoreError(f"{path.parent}: cannot be written ({error.strerror})") from error
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise StoreError(
            f"{path.parent}: another process is writing these features; wait until it ends, or stop it"
        ) from error
    return file


def _number(part: Path) -> int:
    return int(part.stem.split("-")[1])


def _batch(rows: Sequence[Row], dtype: np.dtype, metadata: Mapping[str, Any]) -> pa.RecordBatch:
    arrays = [np.ascontiguousarray(row.values, dtype) for row in rows]
    starts = np.cumsum([0, *(array.size for array in arrays)], dtype=np.int64)
    columns = {
        "id": pa.array([row.id for row in rows], pa.string()),
        "audio": pa.array([row.audio_digest for row in rows], pa.string()),
        "shape": pa.array([list(array.shape) for array in arrays], pa.list_(pa.int32())),
        "crc32": pa.array([zlib.crc32(array.data) for array in arrays], pa.uint32()),
        "values": pa.LargeListArray.from_arrays(starts, np.concatenate([array.ravel() for array in arrays])),
    }
    batch = pa.RecordBatch.from_pydict(columns)
    return batch.replace_schema_metadata(
        {key: json.dumps(value, sort_keys=True) for key, value in metadata.items()}
    )


@contextmanager
def replacing(target: Path) -> Iterator[IO[bytes]]:
    """Open a file that becomes `target` when it is whole and on the disk; after an error it is removed.

    The file is synced before it gets its name, and the folder after: `target` is whole or as it was before,
    also after a power failure.

    Raises:
        OSError: The file cannot be written.
    """
    temporary = target.with_name(f".{target.name}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except Exception:
        temporary.unlink(missing_ok=True)
        raise


def _first_line(error: BaseException) -> str:
    return str(error).split("\n", 1)[0]
