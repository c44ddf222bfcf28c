"""Extraction: corpus x views -> feature stores; computes the rows that are missing, and only them."""

import math
import os
import resource
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from pcl_jax import audio
from pcl_jax.audio import AudioError, AudioErrors
from pcl_jax.corpora.utterance import Corpus, Utterance
from pcl_jax.features import store
from pcl_jax.features.store import Row, Shard, Store, StoreError, Writer
from pcl_jax.features.workers import Task, compute, compute_all, run_view
from pcl_jax.views.view import View

PART_ROWS = 1024
PART_BYTES = 2**26
PART_S = 10.0
"""A part is written when it reaches any of these: a kill loses at most one part."""
ROOM = 2**24
"""Bytes to leave free on the disk."""
SAMPLED_FROM_S = 600.0
"""Duration from which on the time is estimated first, by computing `SAMPLES` utterances."""
SAMPLES = 4
_PROCESSES = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


@runtime_checkable
class Progress(Protocol):
    """A function that is called after every utterance."""

    def __call__(self, done: int, total: int, label: str) -> None:
        """Report that `done` of `total` utterances are finished; `label` names the work."""
        ...


@dataclass(frozen=True)
class Plan:
    """The work ahead of an extraction."""

    utterances: int
    """Number to compute in at least one view."""
    audio_s: float
    """Their duration."""
    bytes: int
    """Estimated size of the new features on disk."""
    seconds: float | None
    """Estimated time, from a sample of the utterances; less on an accelerator, which is faster on larger
    batches. None for little audio."""
    free: int
    """Free bytes on the disk."""


@dataclass(frozen=True)
class Extraction:
    """The result of an extraction."""

    stores: Mapping[str, Store]
    """Store of each view. It may hold utterances that the corpus does not have."""
    skipped: Mapping[str, AudioError]
    """Utterance id -> the reason why it has no features; empty unless `on_bad_audio="skip"`."""
    computed: Mapping[str, int]
    """Number of rows computed by this call, per view."""
    present: Mapping[str, int]
    """Number of rows that were in the store before, per view."""
    seconds: float
    """Duration of this call."""
    audio_s: float
    """Duration of the utterances computed by this call."""
    peak_bytes: int
    """Peak memory of this process or of a worker, whichever is larger."""


def extract(
    corpus: Corpus,
    views: Sequence[View],
    features: Path,
    *,
    workers: int | None = None,
    on_bad_audio: Literal["error", "skip"] = "error",
    shard: Shard | None = None,
    announce: Callable[[Plan], None] | None = None,
    progress: Progress | None = None,
) -> Extraction:
    """Bring the stores of a corpus up to date.

    An utterance is computed where its id is not in a view's store or its audio has changed since. Each
    file is decoded once for all views. A kill at any instant loses at most the last `PART_S` seconds or
    `PART_ROWS` rows; the next call computes them.

    Args:
        corpus: The utterances.
        views: Their names are the keys of the result.
        features: The folder of all feature stores.
        workers: Number of processes; None: the CPUs that this process may use. Few utterances are computed
            in this process.
        on_bad_audio: "error": good audio is stored, then all bad files are raised as one error.
            "skip": they are returned.
        shard: (3, 8) computes the third of eight shares of the corpus, so that eight processes or hosts on
            one file system share the work.
        announce: Called with the plan before anything is computed.
        progress: Called as `progress(done, total, label)`.

    Raises:
        AudioErrors: All bad files, unless they are to be skipped.
        StoreError: A store is damaged, locked, or cannot be written; the disk has no room for the features.
        ValueError: No such share.
        WorkerError: A view failed, or a worker process died.
    """
    start = time.monotonic()
    workers = workers or len(os.sched_getaffinity(0))
    places = {view.name: store.place(features, corpus.name, view.name, view.describe()) for view in views}
    utterances = corpus.utterances
    if shard is not None:
        number, shares = shard
        if not 1 <= number <= shares:
            raise ValueError(f"share {number} of {shares}: give 1 to {shares}")
        utterances = utterances[number - 1 :: shares]
    digests, bad = _digests(utterances, workers)
    good = [utterance for utterance in utterances if utterance.id in digests]
    missing = {view.name: _missing(places[view.name], good, digests) for view in views}
    todo = [utterance for utterance in good if any(utterance.id in ids for ids in missing.values())]
    plan = _plan(todo, views, missing, features, workers)
    if announce is not None and todo:
        announce(plan)
    if plan.bytes + ROOM > plan.free and todo:
        raise StoreError(
            f"{features}: the features of {plan.utterances} utterances will take about "
            f"{plan.bytes / 2**20:,.0f} MiB, and the disk has {plan.free / 2**20:,.0f} MiB free; make room, "
            "or choose another disk with --features"
        )
    with ExitStack() as stack:
        sinks = {
            view.name: stack.enter_context(_Sink(view, places[view.name], digests, shard))
            for view in views
            if missing[view.name] or not places[view.name].is_dir()
        }
        bad |= _compute(todo, views, missing, sinks, workers, progress)
    if bad and on_bad_audio == "error":
        raise AudioErrors(list(bad.values()))
    return Extraction(
        stores={name: store.open(place) for name, place in places.items()},
        skipped=bad,
        computed={name: sinks[name].written if name in sinks else 0 for name in places},
        present={name: len(good) - len(ids) for name, ids in missing.items()},
        seconds=time.monotonic() - start,
        audio_s=plan.audio_s,
        peak_bytes=1024 * max(resource.getrusage(who).ru_maxrss for who in _PROCESSES),
    )


def _plan(
    todo: Sequence[Utterance],
    views: Sequence[View],
    missing: Mapping[str, set[str]],
    features: Path,
    workers: int,
) -> Plan:
    size = sum(view.size(u.duration_s) for view in views for u in todo if u.id in missing[view.name])
    disk = next(folder for folder in (features.absolute(), *features.absolute().parents) if folder.exists())
    audio_s = sum((u.duration_s for u in todo), 0.0)
    seconds = None
    if audio_s >= SAMPLED_FROM_S:
        seconds = _estimate(todo, views, missing, workers)
    return Plan(len(todo), audio_s, size, seconds, shutil.disk_usage(disk).free)


def _estimate(
    todo: Sequence[Utterance], views: Sequence[View], missing: Mapping[str, set[str]], workers: int
) -> float:
    """Estimate the seconds from utterances of short to long duration; their features are discarded."""
    by_duration = sorted(todo, key=lambda u: u.duration_s)
    sample = [by_duration[(2 * i + 1) * len(todo) // (2 * SAMPLES)] for i in range(SAMPLES)]
    wanted = [view for view in views if missing[view.name] and view.precomputed(sample[0]) is None]
    in_workers = tuple(view for view in wanted if view.device_batch is None)
    tasks = [Task(utterance, in_workers, _read_s(wanted)) for utterance in sample]
    compute(tasks[0])  # loads what the views need
    began = time.perf_counter()
    computed = [compute(task) for task in tasks]
    seconds = (time.perf_counter() - began) / SAMPLES * len(todo) / workers
    readable = [result.utterance for result in computed if result.error is None]
    waveforms = [result.waveform for result in computed if result.error is None]
    for view in wanted:
        if view.device_batch is not None and waveforms:
            run_view(view, readable, waveforms)  # compiles
            began = time.perf_counter()
            run_view(view, readable, waveforms)
            seconds += (time.perf_counter() - began) / len(waveforms) * len(missing[view.name])
    return seconds


def _read_s(views: Sequence[View]) -> float:
    """Return the seconds of an utterance that the views on the accelerator read."""
    return max((view.longest_s or math.inf for view in views if view.device_batch is not None), default=0.0)


def _digests(utterances: Sequence[Utterance], threads: int) -> tuple[dict[str, str], dict[str, AudioError]]:
    """Map each utterance id to the digest of its audio, or to the error that reading it gives."""
    digests: dict[str, str] = {}
    bad: dict[str, AudioError] = {}
    files = audio.file_digests((u.path for u in utterances), threads)
    for utterance in utterances:
        content = files[utterance.path]
        if isinstance(content, AudioError):
            bad[utterance.id] = content
        else:
            digests[utterance.id] = audio.segment_digest(content, utterance.start_s, utterance.end_s)
    return digests, bad


def _missing(place: Path, utterances: Sequence[Utterance], digests: Mapping[str, str]) -> set[str]:
    if not place.is_dir():
        return {utterance.id for utterance in utterances}
    stored = store.open(place)
    return {u.id for u in utterances if u.id not in stored or stored.audio_digest(u.id) != digests[u.id]}


def _compute(
    todo: Sequence[Utterance],
    views: Sequence[View],
    missing: Mapping[str, set[str]],
    sinks: Mapping[str, "_Sink"],
    processes: int,
    progress: Progress | None,
) -> dict[str, AudioError]:
    """Compute and store the missing rows; return the errors of the audio that cannot be read."""
    bad: dict[str, AudioError] = {}
    tasks = []
    for utterance in todo:
        wanted = []
        for view in views:
            if utterance.id in missing[view.name]:
                if (values := view.precomputed(utterance)) is None:
                    wanted.append(view)
                else:
                    sinks[view.name].add(utterance.id, values)
        in_workers = tuple(view for view in wanted if view.device_batch is None)
        if wanted:
            tasks.append(Task(utterance, in_workers, waveform_s=_read_s(wanted)))
    with closing(compute_all(tasks, processes)) as results:
        for done, result in enumerate(results, 1):
            if result.error is not None:
                bad[result.utterance.id] = result.error
            for name, values in result.features.items():
                sinks[name].add(result.utterance.id, values)
            for view in views:
                awaits = view.device_batch is not None and result.utterance.id in missing[view.name]
                if awaits and result.error is None:
                    sinks[view.name].add_waveform(result.utterance, result.waveform)
            if progress is not None:
                progress(done, len(tasks), "extracting " + ", ".join(sinks))
    return bad


class _Sink:
    """A buffer that writes one view's rows in parts; on leaving it writes the rest, also after an error."""

    def __init__(self, view: View, place: Path, digests: Mapping[str, str], shard: Shard | None):
        self.view, self.digests = view, digests
        self.writer = Writer(place, view.name, view.describe(), shard=shard)
        self.rows: list[Row] = []
        self.bytes = 0
        self.waiting: list[tuple[Utterance, np.ndarray]] = []
        self.written = 0
        self.since = time.monotonic()

    def __enter__(self) -> "_Sink":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self.writer:
            if kind is None:
                self._run_device()
            if kind is None or not issubclass(kind, StoreError):
                self._flush()

    def add(self, id: str, values: np.ndarray) -> None:
        self.rows.append(Row(id, self.digests[id], values))
        self.bytes += values.nbytes
        due = time.monotonic() - self.since >= PART_S
        if due or len(self.rows) >= PART_ROWS or self.bytes >= PART_BYTES:
            self._flush()

    def add_waveform(self, utterance: Utterance, waveform: np.ndarray) -> None:
        self.waiting.append((utterance, waveform))
        if len(self.waiting) >= (self.view.device_batch or 1):
            self._run_device()

    def _run_device(self) -> None:
        waiting, self.waiting = self.waiting, []
        if waiting:
            utterances, waveforms = zip(*waiting, strict=True)
            for utterance, values in zip(utterances, run_view(self.view, utterances, waveforms), strict=True):
                self.add(utterance.id, values)

    def _flush(self) -> None:
        self.writer.write(self.rows)
        self.written += len(self.rows)
        self.rows, self.bytes, self.since = [], 0, time.monotonic()
