"""Terminal output: progress, tables, lines. Plain lines where there is no terminal; rich respects NO_COLOR.

Text of the user (ids, paths, titles) is never read as markup.
"""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleDimensions, Group
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Column, Table

from pcl_jax.corpora.folds import validation_session

if TYPE_CHECKING:  # jax, flax and scipy take seconds to load, and the first line is printed before them
    import numpy as np

    from pcl_jax.corpora.utterance import Corpus
    from pcl_jax.features.extract import Extraction, Plan
    from pcl_jax.features.maintain import StoredFeatures
    from pcl_jax.runs.records import Row
    from pcl_jax.runs.runner import Runner

NARROWEST = 20
"""Columns of the narrowest terminal: at width 0, which a wrong COLUMNS gives, rich prints nothing at all."""
UNLIMITED = 10_000
"""Columns that no table needs."""


class _Console(Console):
    """A console that leaves nothing out: tables keep the width they need on a terminal that lacks it."""

    _least = NARROWEST

    @property
    def size(self) -> ConsoleDimensions:
        """Columns and rows of the terminal, or as many columns as the table needs that is being printed."""
        width, height = super().size
        return ConsoleDimensions(max(width, self._least), height)

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._width, self._height = new_size

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does, tables in full."""
        try:
            for item in objects:
                if isinstance(item, Table | Group):
                    unlimited = self.options.update(max_width=UNLIMITED)
                    self._least = max(self._least, Measurement.get(self, unlimited, item).maximum)
            super().print(*objects, **options)
        finally:
            self._least = NARROWEST


out = _Console(soft_wrap=True)
err = _Console(stderr=True, soft_wrap=True)

PLAIN_EVERY_S = 10.0
"""Seconds between two plain lines of progress, of whatever bar, where there is no terminal for one."""

FOUND_S = 1.0
"""Seconds at the start in which steps were only found finished: they say nothing of the time that is left."""

ESTIMATE_S = 10.0
"""Seconds before the first estimate of the time that is left, unless a tenth is done sooner."""


ESTIMATE_STEPS = 20
"""Steps before the first estimate, or a twentieth of all if those are fewer, but two at least."""


class Bar:
    """Progress of one piece of work: `bar(done, total, label)` moves a bar, or prints a line now and then."""

    def __init__(self, progress: Progress | None, title: str):
        """Begin without a bar: work that needs no step shows none."""
        self._progress, self._title = progress, title
        self._task: TaskID | None = None
        self._began = time.monotonic()
        self._found: int | None = None
        self._first: tuple[int, float] | None = None
        self._line = ""

    def __call__(self, done: int, total: int, label: str = "") -> None:
        """Show that so many steps of all are done; `label` says what the last one was."""
        global _printed
        clock = time.monotonic()
        if self._found is None or clock - self._began < FOUND_S:
            self._found = done - 1
        elif self._first is None and done < total:
            self._first = done, clock - self._began
        left = self._left(done, total, clock - self._began)
        self._line = f"{self._title} {done}/{total} {label}".rstrip()
        if self._progress is not None:
            if self._task is None:
                self._task = self._progress.add_task(self._title, total=total, left=left, label=label)
            self._progress.update(self._task, completed=done, total=total, left=left, label=label)
        elif clock - _printed >= PLAIN_EVERY_S:
            out.print(f"{self._line}, {left} left" if left else self._line, markup=False, highlight=False)
            _printed = clock

    def _left(self, done: int, total: int, seconds: float) -> str:
        """Return the time that is left, or nothing while an estimate would mean nothing."""
        worked = done - (self._found or 0)
        if done >= total or worked < max(2, min(ESTIMATE_STEPS, 0.05 * total)):
            return ""
        if seconds < ESTIMATE_S and worked < 0.1 * total:
            return ""
        if self._first is not None and self._first[0] < done:  # the first step compiles
            worked, seconds = done - self._first[0], seconds - self._first[1]
        return duration(seconds / worked * (total - done))

    def leave(self) -> None:
        """Replace a bar beneath another by a line, to make room for the next."""
        if self._progress is not None and self._task is not None:
            out.print(self._line, markup=False, highlight=False)
            self._progress.remove_task(self._task)


_printed = float("-inf")
"""Time of the last plain line of progress."""

_display: Progress | None = None
"""Display that is on the screen now: bars within a bar stand beneath it."""


@contextmanager
def bar(title: str) -> Iterator[Bar]:
    """Show progress during a block; within the block of another bar, beneath that one."""
    global _display
    if _display is not None or not out.is_terminal:
        nested = Bar(_display, title)
        try:
            yield nested
        finally:
            nested.leave()
        return
    label = Column(no_wrap=True, overflow="ellipsis", max_width=max(20, out.width - 42))
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}", style="progress.remaining", markup=False),
        TextColumn("{task.fields[label]}", table_column=label, markup=False),
    )
    with Progress(*columns, console=out) as progress:
        _display = progress
        try:
            yield Bar(progress, title)
        finally:
            _display = None


def corpus_line(corpus: "Corpus") -> str:
    """Return the size of a corpus."""
    hours = sum(u.duration_s for u in corpus.utterances) / 3600
    nature = ". It is SYNTHETIC speech: nothing it shows holds for people" if corpus.synthetic else ""
    return f"{corpus.name}: {len(corpus.utterances):,} utterances, {hours:.2f} h of speech{nature}."


def plan_line(plan: "Plan") -> str:
    """Return what an extraction will take."""
    time_s = "" if plan.seconds is None else f"{duration(plan.seconds)} and "
    return (
        f"to extract: {plan.utterances:,} utterances, {plan.audio_s / 3600:.2f} h of audio, about {time_s}"
        f"{size(plan.bytes)} on disk ({size(plan.free)} free)"
    )


def stores_table(stores: "Sequence[StoredFeatures]") -> Table:
    """Return the table of the stores of a features folder."""
    from pcl_jax.features.store import StoreError
    from pcl_jax.features.store import open as open_store

    table = Table(box=SIMPLE_HEAD, collapse_padding=True)
    for heading in ("corpus", "view", "digest", "utterances", "values", "size"):
        table.add_column(heading, justify="right" if heading in ("utterances", "size") else "left")
    for stored in stores:
        try:
            opened = open_store(stored.folder)
        except StoreError:
            cells = ("damaged", "pcl features verify")
        else:
            cells = (f"{len(opened):,}", "".join(_shape(values) for values in islice(opened.values(), 1)))
        table.add_row(escape(stored.corpus), escape(stored.view), stored.digest, *cells, size(stored.bytes))
    return table


def _shape(values: "np.ndarray") -> str:
    axes = [str(size) for size in values.shape]
    if len(axes) > 1:
        axes[0] = "t"
    return escape(f"{values.dtype} [{', '.join(axes)}]")


def ask(question: str) -> bool:
    """Return whether a person at a terminal says yes; without a terminal the answer is no."""
    return sys.stdin.isatty() and out.input(question, markup=False).strip().lower() in ("y", "yes")


def extracted_line(extraction: "Extraction") -> str:
    """Return what was extracted, how fast, and its size on disk."""
    count = max(extraction.computed.values())
    sizes = ", ".join(f"{view} {size(store.bytes_on_disk)}" for view, store in extraction.stores.items())
    return (
        f"extracted {count} utterances in {extraction.seconds:.0f} s "
        f"({count / extraction.seconds:.1f}/s, {extraction.audio_s / extraction.seconds:.0f} x real time, "
        f"at most {size(extraction.peak_bytes)} of memory a process); on disk: {sizes}"
    )


def duration(seconds: int | float) -> str:
    """Return a time for people.

    >>> duration(8.2), duration(700), duration(10_000)
    ('8 s', '12 min', '2.8 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def size(count: int | float) -> str:
    """Return a number of bytes for people.

    >>> size(300), size(5 * 2**20), size(1.5 * 2**30)
    ('300 B', '5.0 MiB', '1.5 GiB')
    """
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def epoch_line(row: Mapping[str, Any]) -> str:
    """Return the metrics of a pre-training epoch."""
    waiting = f", waits {row['waiting']:.0%} for the disk" if row["waiting"] else ""
    return (
        f"loss {row['loss']:.3f}, validation {row['validation_loss']:.3f}, "
        f"retrieval@1 {row['retrieval']:.1%} (chance {row['retrieval_chance']:.1%}), "
        f"{row['utterances_per_s']:,.0f} utterances/s{waiting}"
    )


def comparison(rows: "Sequence[Row]", title: str) -> Table:
    """Return UAR and WA in % of each method, per view and share of labels: means of these records."""
    from pcl_jax.runs.summary import METHODS, method_of

    table = Table(
        title=f"{escape(title)}\nUAR / WA in %", title_justify="left", box=SIMPLE_HEAD, collapse_padding=True
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
            by_method = {name: [row for row in cell if method_of(row) == name] for name in METHODS}
            numbers = [
                f"{100 * _mean(found, 'uar'):.1f} / {100 * _mean(found, 'wa'):.1f}" if found else "not run"
                for found in by_method.values()
            ]
            table.add_row(
                escape(view.replace(" (", "\n(")),
                f"{fraction:.0%}",
                f"{_mean(cell, 'n_labelled'):.0f}",
                str(max(map(len, by_method.values()))),
                *numbers,
            )
    return table


def fold_title(runner: "Runner", fold: int) -> str:
    """Return the protocol of a table of one fold."""
    corpus = runner.corpus
    name = f"{corpus.name} (SYNTHETIC speech)" if corpus.synthetic else corpus.name
    return (
        f"{name}, fold {fold}: test session {fold}, validation session {validation_session(fold)}; "
        f"{', '.join(corpus.classes)}; views {runner.title(runner.views)}; "
        f"normalise={runner.settings.normalise}; seed {runner.protocol.seed}"
    )


def _mean(rows: "Sequence[Row]", name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)


def task_line(row: "Row") -> str:
    """Return what a finished run was, and its UAR."""
    from pcl_jax.runs.summary import METHODS, PROBES, labels, method_of

    method = (METHODS | PROBES).get(method_of(row), row["method"])
    return f"UAR {row['uar']:.1%}: {row['title']}, {method}, {labels(row)}"


def pretrained_line(row: "Row") -> str:
    """Return how a pre-training ended."""
    return (
        f"pre-trained {row['epochs']} epochs in {row['seconds']:.0f} s; "
        f"kept epoch {row['best_epoch']}, validation loss {row['validation_loss']:.3f}"
    )
