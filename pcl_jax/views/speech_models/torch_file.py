"""Reader for the tensors of a `pytorch_model.bin`, without torch and without trusting the file.

A pickle can name any function of the machine that reads it and have it called. This reader looks
every name up in its own list (`_allowed`): the names are those with which torch writes tensors, and the
objects behind them are defined here and only store their arguments. Any other name ends the reading.

It reads both containers that `torch.save` has used: the zip archive (since torch 1.6) and, before it, a
stream of pickles followed by the storages' bytes ("legacy").
"""

import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001

_STORAGES = {
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "DoubleStorage": np.dtype("<f8"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


class _StorageType(NamedTuple):
    dtype: np.dtype


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    start: int
    """First element within the stored bytes (legacy storages can be views of others)."""
    size: int
    """Number of elements."""


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Dict(dict):
    """A stand-in for OrderedDict, without the `_metadata` that torch attaches to it."""

    def __setstate__(self, state: Any) -> None:
        pass


def _counts(values: Any) -> tuple[int, ...]:
    if not isinstance(values, tuple) or not all(type(v) is int and v >= 0 for v in values):
        raise ValueError(f"a tensor's shape or stride is {values!r}, not a tuple of counts")
    return values


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise ValueError(f"a tensor is built on {type(storage).__name__}, not on a storage")
    (offset,), shape, stride = _counts((offset,)), _counts(shape), _counts(stride)
    if len(shape) != len(stride):
        raise ValueError(f"a tensor's shape {shape} and stride {stride} differ in length")
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    if 0 not in shape and last >= storage.size:
        raise ValueError(f"a tensor reaches element {last} of a storage of {storage.size}")
    return _Tensor(storage, offset, shape, stride)


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


def _allowed() -> dict[tuple[str, str], Any]:
    return {
        ("collections", "OrderedDict"): _Dict,
        ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
        **{("torch", name): _StorageType(dtype) for name, dtype in _STORAGES.items()},
    }


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any):
        super().__init__(file, encoding="utf-8")
        self.allowed = _allowed()
        self.item_bytes: dict[str, int] = {}
        """Bytes per element of each storage that the pickle refers to."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        try:
            return self.allowed[module_name, global_name]
        except KeyError:
            raise ValueError(
                f"its pickle names {module_name}.{global_name}, which is no part of a tensor: not run"
            ) from None

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _, size, *view = pid
        if kind != "storage" or not isinstance(storage_type, _StorageType):
            raise ValueError(f"its pickle refers to {kind!r}, not to a storage")
        start = 0
        if view and view[0] is not None:
            _, start, size = view[0]
        start, size = _counts((start, size))
        self.item_bytes[str(key)] = storage_type.dtype.itemsize
        return _Storage(str(key), storage_type.dtype, start, size)


@dataclass(frozen=True)
class _TorchFile(Mapping[str, np.ndarray]):
    """A mapping of names to tensors; each is read from the disk when it is asked for."""

    path: Path
    tensors: Mapping[str, _Tensor]
    read: Callable[[_Storage], np.ndarray]

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self.tensors[name]
        data = self.read(tensor.storage)
        if 0 in tensor.shape:
            return np.zeros(tensor.shape, data.dtype)
        # Within bounds: `_rebuild_tensor` checked the last element against the storage's size, and
        # `read` returns that many or fails.
        strides = tuple(s * data.itemsize for s in tensor.stride)
        return np.lib.stride_tricks.as_strided(data[tensor.offset :], tensor.shape, strides).copy()

    def __iter__(self):
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def read_torch_file(path: Path) -> Mapping[str, np.ndarray]:
    """Read the tensors of a file that `torch.save` wrote from a state dict.

    Args:
        path: `pytorch_model.bin`, zip or legacy.

    Returns:
        A mapping of names to tensors; each is read from the disk when it is asked for.

    Raises:
        ValueError: The file is damaged, is neither format, or its pickle names anything but tensors;
            the message has the file and the name.
    """
    try:
        return _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
    except (pickle.UnpicklingError, zipfile.BadZipFile, ValueError, TypeError, KeyError, EOFError,
            AttributeError, IndexError, UnicodeDecodeError, OverflowError) as error:  # fmt: skip
        raise ValueError(f"{path} is no readable torch checkpoint: {error}") from error


def _tensors(loaded: Any) -> dict[str, _Tensor]:
    if not isinstance(loaded, dict):
        raise ValueError(f"it holds a {type(loaded).__name__}, not a dictionary of tensors")
    return {name: value for name, value in loaded.items() if isinstance(value, _Tensor)}


def _elements(data: bytes, storage: _Storage, path: Path) -> np.ndarray:
    if len(data) < storage.size * storage.dtype.itemsize:
        raise ValueError(
            f"{path} is cut short: storage {storage.key} has {len(data)} bytes instead of "
            f"{storage.size * storage.dtype.itemsize}"
        )
    return np.frombuffer(data, storage.dtype, storage.size)


def _read_zip(path: Path) -> Mapping[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"a torch archive has one data.pkl, this one {len(pickles)}")
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder").strip() != b"little":
            raise ValueError("its numbers are big-endian")
        with archive.open(pickles[0]) as file:
            tensors = _tensors(_Unpickler(file).load())

    def read(storage: _Storage) -> np.ndarray:
        with zipfile.ZipFile(path) as archive:
            entry = archive.getinfo(f"{root}data/{storage.key}")
            if entry.file_size != storage.size * storage.dtype.itemsize:
                raise ValueError(
                    f"{path}: storage {storage.key} has {entry.file_size} bytes instead of "
                    f"{storage.size * storage.dtype.itemsize}"
                )
            return _elements(archive.read(entry), storage, path)

    return _TorchFile(path, tensors, read)


def _read_legacy(path: Path) -> Mapping[str, np.ndarray]:
    with path.open("rb") as file:
        if _Unpickler(file).load() != LEGACY_MAGIC:
            raise ValueError("it has neither a zip archive's nor a legacy torch file's beginning")
        version = _Unpickler(file).load()
        if version != LEGACY_PROTOCOL:
            raise ValueError(f"its protocol is {version}, known is {LEGACY_PROTOCOL}")
        machine = _Unpickler(file).load()
        if not machine.get("little_endian", False):
            raise ValueError("its numbers are big-endian")
        unpickler = _Unpickler(file)
        tensors = _tensors(unpickler.load())
        keys = [str(key) for key in _Unpickler(file).load()]
        places = _legacy_places(file, keys, unpickler.item_bytes, path.stat().st_size)

    def read(storage: _Storage) -> np.ndarray:
        with path.open("rb") as file:
            file.seek(places[storage.key] + storage.start * storage.dtype.itemsize)
            return _elements(file.read(storage.size * storage.dtype.itemsize), storage, path)

    return _TorchFile(path, tensors, read)


def _legacy_places(file: BinaryIO, keys: list[str], item_bytes: dict[str, int], end: int) -> dict[str, int]:
    """Return the offset of each storage's elements: after an int64 count, one storage behind the other."""
    places = {}
    for key in keys:
        head = file.read(8)
        size = int.from_bytes(head, "little") * item_bytes[key]
        places[key] = file.tell()
        if len(head) < 8 or places[key] + size > end:
            raise ValueError(f"it is cut short in storage {key}")
        file.seek(size, 1)
    return places
