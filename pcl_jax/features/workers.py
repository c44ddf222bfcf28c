"""Worker processes that read audio and compute features; results come in the order of the tasks.

This module is apart from `extract` so that a worker process loads neither jax nor the store.
"""

import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
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

    Raises:
        WorkerError: A view failed on audio that can be read.
    """
    try:
        utterance = task.utterance
        waveform = audio.read(utterance.path, start_s=utterance.start_s, end_s=utterance.end_s)
    except AudioError as error:
        return Computed(task.utterance, {}, np.zeros(0, np.float32), error)
    features = {}
    for view in task.views:
        try:
            (features[view.name],) = view.features([waveform])
        except Exception as error:
            raise WorkerError(f"view {view.name!r} fails on {task.utterance.path}: {error!r}") from error
    # A copy: a slice of an hour keeps the hour in memory.
    start = waveform[: round(min(task.waveform_s, len(waveform)) * audio.SAMPLING_RATE)].copy()
    return Computed(task.utterance, features, start, None)


def compute_all(tasks: Sequence[Task], workers: int) -> Generator[Computed, None, None]:
    """Compute the tasks in `workers` processes; few tasks in this one, which is quicker.

    The processes are spawned, never forked: a fork copies the locks of JAX's threads but not the threads.
    They end when the iterator is exhausted or closed, and when this process is killed.

    Raises:
        WorkerError: As `compute`; or a worker process died.
    """
    if workers == 1 or len(tasks) < FEW:
        yield from map(compute, tasks)
        return
    with _one_thread_each():
        pool = ProcessPoolExecutor(min(workers, len(tasks)), get_context("spawn"), _start_worker)
        pending: deque[tuple[Task, Future[Computed]]] = deque()
        try:
            for task in tasks:
                pending.append((task, pool.submit(compute, task)))
                if len(pending) >= _AHEAD * workers:
                    yield pending.popleft()[1].result()
            while pending:
                yield pending.popleft()[1].result()
        except BrokenProcessPool as error:
            raise WorkerError(
                "a worker process died (killed, or out of memory?); what was written is safe: run again, "
                "perhaps with fewer --workers"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


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


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    """End this worker with its parent: it would wait for its next task for ever."""
    connection.wait([sentinel])
    os._exit(1)
