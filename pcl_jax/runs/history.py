"""Training history of a run: the metrics of each epoch, as JSON lines."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pcl_jax.runs.checkpoint import CheckpointError
from pcl_jax.runs.files import write_atomically

FILE = "epochs.jsonl"


class History:
    """Metrics of the epochs of a run; the file is rewritten whole, so that it is never torn."""

    def __init__(self, folder: Path, *, last_epoch: int):
        """Read the rows that the folder has, up to an epoch: later ones are of a state that was lost.

        Raises:
            CheckpointError: the file is damaged.
        """
        self._path = folder / FILE
        try:
            lines = self._path.read_text().splitlines() if self._path.is_file() else []
            rows = [row for row in map(json.loads, lines) if row["epoch"] <= last_epoch]
        except (ValueError, TypeError, KeyError) as error:
            raise CheckpointError(
                f"{self._path} is damaged; delete it to resume without the metrics of the epochs so far"
            ) from error
        self.rows: list[Mapping[str, Any]] = rows

    def write(self) -> None:
        """Write all rows."""
        write_atomically(self._path, "".join(json.dumps(row) + "\n" for row in self.rows).encode())
