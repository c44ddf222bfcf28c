"""Worker processes that read audio and compute features; results come in the order of the tasks.

This module is apart from `extract` so that a worker process loads neither jax nor the store.
"""

import os
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pcl_jax import audio
from pcl_jax.audio import AudioError
from pcl_jax.corpora.utterance import Utterance

FEW = 64
"""Tasks below which starting processes (2 s for librosa and openSMILE) costs more than it saves."""
_AHEAD = 8
"""Tasks in flight per worker: bounds memory, and bridges one long utterance."""
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


class WorkerError(RuntimeError):
    """Raised when a view fails on an utterance, or a worker process dies."""


class Task(NamedTuple):
    """One utterance and the features to compute."""

    utterance: Utterance
    views: tuple[Any, ...]
    """The `View`s to compute."""
    waveform_s: float
    """Seconds of the waveform, from its start, to return as well."""


class Computed(NamedTuple):
    """The result of a task."""

    utterance: Utterance
    features: dict[str, np.ndarray]
    waveform: np.ndarray
    """The first `waveform_s` of it."""
    error: AudioError | None


def compute(task: Task) -> Computed:
    """Decode an utterance once and compute every view.

    Returns:
        The features, or the `AudioError`: every exception while reading becomes one.

    Raises:
        WorkerError: A view failed on audio that can be read.
    """
    utterance = task.utterance
    try:
        waveform = _read(utterance)
    except AudioError as error:
        return Computed(utterance, {}, np.zeros(0, np.float32), error)
    features = {view.name: run_view(view, [utterance], [waveform])[0] for view in task.views}
    # A copy: a slice of an hour keeps the hour in memory.
    start = waveform[: round(min(task.waveform_s, len(waveform)) * audio.SAMPLING_RATE)].copy()
    return Computed(utterance, features, start, None)


def run_view(view: Any, utterances: Sequence[Utterance], waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Compute the features of utterances in one call of a view.

    Raises:
        WorkerError: The view failed; names the view and the file, found by trying each alone.
    """
    try:
        found = view.features(waveforms)
        if len(found) != len(waveforms):
            raise ValueError(f"{len(waveforms)} waveforms give {len(found)} features")
        return found
    except Exception as error:
        place = f"a batch of {len(utterances)} utterances that begins with {utterances[0].path}"
        if len(utterances) == 1:
            place = str(utterances[0].path)
        else:
            for utterance, waveform in zip(utterances, waveforms, strict=True):
                run_view(view, [utterance], [waveform])
        raise WorkerError(f"view {view.name!r} fails on {place}: {error!r}") from error


def _read(utterance: Utterance) -> audio.Waveform:
    try:
        return audio.read(utterance.path, start_s=utterance.start_s, end_s=utterance.end_s)
    except AudioError:
        raise
    except Exception as error:  # a decoder may raise anything: NumPy's "array is too big", for example
        raise AudioError(utterance.path, "unreadable", f"cannot be decoded ({error!r})") from error


def compute_all(tasks: Sequence[Task], workers: int) -> Generator[Computed, None, None]:
    """Compute the tasks in `workers` processes; few tasks in this one, which is quicker.

    The processes are spawned, never forked: a fork copies the locks of JAX's threads but not the threads.
    They end when the iterator is exhausted or closed, and when this process is killed.

    Raises:
        WorkerError: As `compute`; or a worker process died: names the file that it was at.
    """
    if workers == 1 or len(tasks) < FEW:
        yield from map(compute, tasks)
        return
    with _one_thread_each(), tempfile.TemporaryDirectory(prefix="pcl-workers-") as notes:
        pool = _pool(min(workers, len(tasks)), notes)
        pending: deque[Future[Computed]] = deque()
        try:
            for number, task in enumerate(tasks):
                pending.append(pool.submit(_compute_noted, task, number))
                if len(pending) >= _AHEAD * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            begun = sorted(int(note.read_text() or -1) for note in Path(notes).iterdir())
            raise _died([tasks[number] for number in begun if number >= 0], notes) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _pool(processes: int, notes: str) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(processes, get_context("spawn"), _start_worker, (notes,))


def _died(tasks: Sequence[Task], notes: str) -> WorkerError:
    """Make the error of a worker process that died at one of these tasks: try each alone to find it."""
    for task in tasks:
        pool = _pool(1, notes)
        try:
            pool.submit(compute, task).result()
        except BrokenProcessPool:
            return WorkerError(
                f"a worker process died at {task.utterance.path}, and dies there again: convert the file, or "
                "remove it from the corpus; what was written is safe"
            )
        except WorkerError as error:
            return error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    paths = ", ".join(str(task.utterance.path) for task in tasks) or "no file"
    return WorkerError(
        f"a worker process died (killed, or out of memory?) while they were at {paths}; each alone can be "
        "computed. What was written is safe: run again, perhaps with fewer --workers"
    )


_note: Path
"""The file in which this worker process notes the number of the task that it is at."""


def _compute_noted(task: Task, number: int) -> Computed:
    _note.write_text(str(number))
    result = compute(task)
    _note.write_text("")
    return result


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Set one thread per worker in the environment, which they inherit before they import NumPy."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _start_worker(notes: str) -> None:
    global _note
    _note = Path(notes) / str(os.getpid())
    follow_parent()


def follow_parent() -> None:
    """Leave Ctrl-C, which reaches all processes of a terminal, to the parent of this one, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    """End this process with its parent, even one that is killed: it would wait or work on for nobody."""
    connection.wait([sentinel])
    os._exit(1)
