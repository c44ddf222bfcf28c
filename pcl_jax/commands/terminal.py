"""What a person sees: progress, tables, one-line errors. Plain lines where there is no terminal.

NO_COLOR is respected (rich does it).
"""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Column, Table

from pcl_jax.corpora.folds import validation_session
from pcl_jax.features.extract import Extraction, Plan
from pcl_jax.features.maintain import StoredFeatures
from pcl_jax.features.store import StoreError
from pcl_jax.features.store import open as open_store
from pcl_jax.runs.records import Row
from pcl_jax.runs.study import Study
from pcl_jax.runs.summary import METHODS, PROBES, labels, method_of

out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)

PLAIN_EVERY_S = 10.0
"""Between two plain lines of progress, where a bar would be a mess."""

AT_ONCE_S = 1.0
"""What is done so soon was done before, in an earlier run, and says nothing of the time that is left."""


class Bar:
    """`bar(done, total, label)`: moves a progress bar, or prints a line now and then."""

    def __init__(self, progress: Progress | None, title: str):
        self._progress, self._title = progress, title
        self._task: TaskID | None = None
        self._printed, self._began = 0.0, time.monotonic()
        self._before: int | None = None
        self._said = ""

    def __call__(self, done: int, total: int, label: str = "") -> None:
        now = time.monotonic()
        if self._before is None or now - self._began < AT_ONCE_S:
            self._before = done - 1
        left = duration((now - self._began) / (done - self._before) * (total - done)) if done else "?"
        self._said = f"{self._title} {done}/{total} {label}"
        if self._progress is not None:
            if self._task is None:  # no bar where there is nothing to do
                self._task = self._progress.add_task(self._title, total=total, left=left, label=label)
            self._progress.update(self._task, completed=done, total=total, left=left, label=label)
        elif now - self._printed > PLAIN_EVERY_S or done == total:
            out.print(f"{self._said}, {left} left", highlight=False)
            self._printed = now

    def leave(self) -> None:
        """Of a bar beneath another: a line stays of it, and the room is for the next."""
        if self._progress is not None and self._task is not None:
            out.print(self._said, highlight=False)
            self._progress.remove_task(self._task)


_shown: Progress | None = None
"""What is on the screen: bars within a bar stand beneath it."""


@contextmanager
def bar(title: str) -> Iterator[Bar]:
    """A progress bar for the block; within the block of another, beneath that one."""
    global _shown
    if _shown is not None or not out.is_terminal:
        made = Bar(_shown, title)
        try:
            yield made
        finally:
            made.leave()
        return
    room = Column(no_wrap=True, overflow="ellipsis", max_width=max(20, out.width - 42))
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}", style="progress.remaining"),
        TextColumn("{task.fields[label]}", table_column=room),
    )
    with Progress(*columns, console=out) as progress:
        _shown = progress
        try:
            yield Bar(progress, title)
        finally:
            _shown = None


def plan_line(plan: Plan) -> str:
    """What an extraction will take."""
    time = "" if plan.seconds is None else f"{duration(plan.seconds)} and "
    return (
        f"to extract: {plan.utterances:,} utterances, {plan.audio_s / 3600:.2f} h of audio, about {time}"
        f"{size(plan.bytes)} on disk ({size(plan.free)} free)"
    )


def stores_table(stores: Sequence[StoredFeatures]) -> Table:
    """The stores of a features folder; what made one stands in its parts' metadata."""
    table = Table(box=SIMPLE_HEAD, collapse_padding=True)
    for heading in ("corpus", "view", "digest", "utterances", "values", "size"):
        table.add_column(heading, justify="right" if heading in ("utterances", "size") else "left")
    for kept in stores:
        try:
            there = open_store(kept.folder)
        except StoreError:
            cells = ("damaged", "pcl features verify")
        else:
            cells = (f"{len(there):,}", "".join(_shape(values) for values in islice(there.values(), 1)))
        table.add_row(kept.corpus, kept.view, kept.digest, *cells, size(kept.bytes))
    return table


def _shape(values: np.ndarray) -> str:
    axes = [str(size) for size in values.shape]
    if len(axes) > 1:
        axes[0] = "t"
    return escape(f"{values.dtype} [{', '.join(axes)}]")


def ask(question: str) -> bool:
    """Whether a person at a terminal says yes; nobody there is no."""
    return sys.stdin.isatty() and out.input(question, markup=False).strip().lower() in ("y", "yes")


def extracted_line(extraction: Extraction) -> str:
    """What was extracted, how fast, and what it takes."""
    count = max(extraction.computed.values())
    sizes = ", ".join(f"{view} {size(store.bytes_on_disk)}" for view, store in extraction.stores.items())
    return (
        f"extracted {count} utterances in {extraction.seconds:.0f} s "
        f"({count / extraction.seconds:.1f}/s, {extraction.audio_s / extraction.seconds:.0f} x real time, "
        f"at most {size(extraction.peak_bytes)} of memory a process); on disk: {sizes}"
    )


def duration(seconds: int | float) -> str:
    """Time for people.

    >>> duration(8.2), duration(700), duration(10_000)
    ('8 s', '12 min', '2.8 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def size(count: int | float) -> str:
    """Bytes for people.

    >>> size(300), size(5 * 2**20), size(1.5 * 2**30)
    ('300 B', '5.0 MiB', '1.5 GiB')
    """
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def epoch_line(row: Mapping[str, Any]) -> str:
    """The metrics of a pre-training epoch in one line."""
    waiting = f", waits {row['waiting']:.0%} for the disk" if row["waiting"] else ""
    return (
        f"loss {row['loss']:.3f}, validation {row['validation_loss']:.3f}, "
        f"retrieval@1 {row['retrieval']:.1%} (chance {row['retrieval_chance']:.1%}), "
        f"{row['utterances_per_s']:,.0f} utterances/s{waiting}"
    )


def comparison(rows: Sequence[Row], title: str) -> Table:
    """UAR and WA in % of each way to train, per view and share of labels: means of these records."""
    table = Table(
        title=f"{title}\nUAR / WA in %", title_justify="left", box=SIMPLE_HEAD, collapse_padding=True
    )
    for heading in ("view", "labels", "n", "runs"):
        table.add_column(heading, justify="left" if heading == "view" else "right")
    for name in METHODS.values():
        table.add_column(name.replace(", ", ",\n"), justify="right")
    for view in sorted({row["title"] for row in rows}):
        for fraction in sorted({row["fraction"] for row in rows}):
            cell = [row for row in rows if row["title"] == view and row["fraction"] == fraction]
            if not cell:
                continue
            of = {name: [row for row in cell if method_of(row) == name] for name in METHODS}
            numbers = [
                f"{100 * mean_of(some, 'uar'):.1f} / {100 * mean_of(some, 'wa'):.1f}" if some else "not run"
                for some in of.values()
            ]
            runs = max(map(len, of.values()))
            table.add_row(
                view.replace(" (", "\n("),
                f"{fraction:.0%}",
                f"{mean_of(cell, 'n_labelled'):.0f}",
                str(runs),
                *numbers,
            )
    return table


def fold_title(study: Study, fold: int) -> str:
    """What a table of one fold is about: the protocol in two lines."""
    corpus = study.corpus
    name = f"{corpus.name} (SYNTHETIC speech)" if corpus.synthetic else corpus.name
    return (
        f"{name}, fold {fold}: test session {fold}, validation session {validation_session(fold)}; "
        f"{', '.join(corpus.classes)}; views {study.title(study.views)}; "
        f"normalise={study.settings.normalise}; seed {study.seed}"
    )


def mean_of(rows: Sequence[Row], name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)


def task_line(row: Row) -> str:
    """What a finished run was, and its UAR."""
    return f"UAR {row['uar']:.1%}: {row['title']}, {(METHODS | PROBES)[method_of(row)]}, {labels(row)}"


def pretrained_line(row: Row) -> str:
    """A finished pre-training in one line."""
    return (
        f"pre-trained {row['epochs']} epochs in {row['seconds']:.0f} s; "
        f"kept epoch {row['best_epoch']}, validation loss {row['validation_loss']:.3f}"
    )


def flags_of(corpus: str, root: Path | None) -> str:
    return f"--corpus {corpus}" + (f" --root {root}" if root else "")
