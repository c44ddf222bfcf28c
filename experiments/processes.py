"""Processes that do the runs of the paper together, each on CPUs of its own.

Two steps of small networks on one CPU each take less time than one after the other on two: a step is many
short operations, between which one CPU waits for the other (docs/performance.md).
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import connection, get_context
from typing import TYPE_CHECKING

from pcl_jax.commands import session, terminal
from pcl_jax.features.workers import follow_parent

if TYPE_CHECKING:
    from experiments.paper import Paper

FEWEST_RUNS = 1000
"""Runs below which a process more costs more than it saves: it loads libraries and compiles for itself."""
_WATCH_S = 5.0


def choose_count(command: "Paper", runs: int) -> int:
    """Return the number of processes for so many missing runs; 1 where they would not be faster."""
    import jax

    alone = command.table_only or command.shard or command.processes or runs < FEWEST_RUNS
    if alone or jax.default_backend() != "cpu" or not hasattr(os, "sched_setaffinity"):
        return 1
    return min(command.workers or sys.maxsize, len(os.sched_getaffinity(0)), len(command.folds))


def work_together(command: "Paper", count: int, watch: Callable[[], None]) -> None:
    """Do what is missing in so many processes, which print nothing; return when all have ended.

    What a process could not do is left: it is tried again, and said, by the one that comes after.

    Args:
        command: The flags.
        count: The number of processes.
        watch: Called every few seconds.
    """
    cpus = sorted(os.sched_getaffinity(0))
    each = len(cpus) // count  # equally many: rounding depends on how many share a sum
    shared = replace(command, workers=1, max_feature_memory=command.max_feature_memory / count)
    context = get_context("spawn")  # a fork copies the locks of JAX's threads but not the threads
    processes = [
        context.Process(target=_work, args=(shared, number, count), daemon=True)
        for number in range(1, count + 1)
    ]
    try:
        for number, process in enumerate(processes):
            with _on(cpus[number * each : (number + 1) * each]):
                process.start()
        while running := [process.sentinel for process in processes if process.is_alive()]:
            connection.wait(running, timeout=_WATCH_S)
            watch()
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
                process.join()


@contextmanager
def _on(cpus: list[int]) -> Iterator[None]:
    """Let this thread, and the processes that it starts, run on these CPUs alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _work(command: "Paper", number: int, count: int) -> None:
    """Do one share of the runs, so that few folds are read twice, then what others have not begun."""
    from experiments import paper

    follow_parent()
    terminal.out.quiet = terminal.err.quiet = True
    try:
        runner = session.open_runner(command, command.views, paper.NAME)
        parts, outcome = paper.parts_of(runner, command), paper.Outcome()
        for shard in (number, count), (1, 1):
            for part, specs in zip(parts, paper.share_out(parts, shard), strict=True):
                paper.do(part, runner, specs, lambda _: None, outcome)
        paper.return_to(runner, lambda _: None, outcome)
    except Exception:  # it comes again in the process that started this one, which says it
        sys.exit(1)
