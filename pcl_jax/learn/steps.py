"""Steps: finished parts of a long computation on disk, so that a command that was killed goes on."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pcl_jax.runs.files import write_atomically


class Steps:
    """Arrays of finished steps, in a folder that belongs to one computation.

    Args:
        folder: Made when the first step ends; steps of another computation there are removed.
        identity: Digest of everything that changes a result.
        finished: Called with the number of steps that are done, after each.
    """

    def __init__(self, folder: Path, identity: str, finished: Callable[[int], None] = lambda _: None):
        """Find the steps that an earlier call of the same computation finished."""
        self._folder, self._place, self._finished = folder, folder / identity, finished
        self._done = 0
        if folder.is_dir():
            for other in folder.iterdir():
                if other.is_dir() and other != self._place:
                    shutil.rmtree(other, ignore_errors=True)

    def do(self, name: str, step: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the array of a step: from disk where it is whole, else computed and written."""
        path = self._place / f"{name}.npy"
        try:
            found = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            found = np.asarray(step())
            content = io.BytesIO()
            np.save(content, found, allow_pickle=False)
            write_atomically(path, content.getvalue())
        self._done += 1
        self._finished(self._done)
        return found

    def forget(self) -> None:
        """Remove all steps."""
        shutil.rmtree(self._folder, ignore_errors=True)
