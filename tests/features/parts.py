"""A store, made in one line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pcl_jax.features.store import Row, Writer


def append(folder: Path, name: str, describe: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Append one part of rows to a store, which is made if need be."""
    with Writer(folder, name, describe) as writer:
        writer.write(rows)
