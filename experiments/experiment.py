"""An experiment as data: the runs that it asks for, and the tables that it makes of their records.

A module of this package holds one as `EXPERIMENT`, ends with `main(EXPERIMENT)`, and stands in
`experiments.EXPERIMENTS`. `python -m experiments.NAME` runs it, and the report shows it.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import experiments
from pcl_jax import cli
from pcl_jax.commands import flags, session
from pcl_jax.runs.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pcl_jax.features.store import Shard
    from pcl_jax.runs.plan import Group
    from pcl_jax.runs.records import Row
    from pcl_jax.runs.runner import Runner
    from pcl_jax.runs.spec import Measure, Spec

Facts: TypeAlias = "dict[str, Any]"
"""Fields of a record that a measurement sets: `values`, by name, among them."""


class Choice(NamedTuple):
    """Pre-training that the tables of single items show, where encoders were pre-trained in several ways."""

    views: tuple[str, ...]
    temperature: float | None

    def pretrained(self, row: "Row") -> bool:
        """Return whether a row starts from this pre-training, on whatever utterances."""
        return (tuple(row["views"]), row["temperature"]) == self

    def holds(self, row: "Row") -> bool:
        """Return whether a row starts from this pre-training on all utterances, or from none."""
        without = row["method"] in ("supervised", "probe-raw", "probe-random")
        return row["view"] in self.views and (
            without or (self.pretrained(row) and row["pretrained_on"] == "all")
        )


def choose(rows: "Sequence[Row]") -> Choice:
    """Return the largest set of views that was pre-trained, and its most frequent temperature."""
    counts = Counter((tuple(row["views"]), row["temperature"]) for row in rows if row["views"])
    if not counts:
        return Choice(tuple(dict.fromkeys(row["view"] for row in rows)), None)
    return Choice(*max(counts, key=lambda key: (len(key[0]), counts[key])))


@dataclass(frozen=True)
class Exhibit:
    """Table that an experiment makes of records, with its picture: a heading of the report."""

    item: str
    """Item of the paper: "Table 3", "Figure 4", or "Beyond the paper"."""
    select: "Callable[[Sequence[Row], Choice], Sequence[Row]]"
    """Rows of a section of the report -> the rows that this table is about."""
    table: "Callable[[Sequence[Row]], Table]"
    figure: "Callable[[Sequence[Row]], Figure] | None" = None
    saved_figure: str = ""
    """Name of a picture that a measurement left in its run's folder, instead."""
    optional: bool = False
    """Whether it is left out where no row is selected; the others say that nothing was run."""
    printed: bool = True
    """Whether `python -m experiments.NAME` prints it; the others stand in the report alone."""


@dataclass(frozen=True)
class Experiment:
    """Item of the paper, or a question beyond it."""

    name: str
    """Name of its module."""
    description: str | None
    """Text of `--help`."""
    flags: type[flags.Experiment]
    """Command line."""
    plan: "Callable[[Runner, Any], Iterable[Spec]]"
    """(runner, command) -> the specs of all runs; making a plan costs nothing."""
    exhibits: tuple[Exhibit, ...]
    """Tables; the first is the main one."""
    measure: "Callable[[Runner, Sequence[Measure]], Iterator[tuple[Measure, Facts]]] | None" = None
    """Measurements of one pre-training -> the facts of each, which are recorded."""
    varies: tuple[str, ...] = ()
    """Settings that its tables compare, as `finetuning.learning_rate`; runs that differ in any other setting
    never share a table."""
    save: "Callable[[Sequence[Row], Any], None] | None" = None
    """(records of the finished runs, command) -> files that the command asks for."""
    extra_corpora: Callable[[Any], Sequence[str]] = lambda _: ()
    """Command -> words of additional corpora for pre-training."""


def load(name: str) -> Experiment:
    """Import one of `experiments.EXPERIMENTS`."""
    return import_module(f"experiments.{name}").EXPERIMENT


def all_experiments() -> Iterator[Experiment]:
    """Yield every experiment, in the order of the report."""
    yield from map(load, experiments.EXPERIMENTS)


def main(experiment: Experiment) -> None:
    """Run an experiment with the flags of the command line, to the end of the process."""
    run_command(experiment.flags, lambda command: run(experiment, command), experiment.description)


def run_command(kind: type, body: Callable[[Any], int | None], description: str | None) -> None:
    """Parse the command line, do the command, end the process with its exit code."""
    words = sys.argv[1:]
    flags.refuse_old_names(words)
    command = flags.parse_as(
        kind,
        words,
        prog=f"python -m experiments.{Path(sys.argv[0]).stem}",
        default=flags.default(kind, words),
        description=description,
    )
    cli.guarded(lambda: body(command), debug=command.debug)


def run(experiment: Experiment, command: Any) -> int:
    """Do the runs of an experiment that are missing, and print its tables."""
    shard = session.parse_shard(command.shard)
    runner = session.open_runner(
        command, command.views, experiment.name, extra_corpora=experiment.extra_corpora(command)
    )
    specs = list(experiment.plan(runner, command))
    if not command.table_only:
        carry_out(experiment, runner, specs, shard)
    print_tables(experiment, runner, specs)
    if experiment.save:
        experiment.save(runner.ledger.finished_records(specs), command)
    return 0


def carry_out(
    experiment: Experiment,
    runner: "Runner",
    specs: "Sequence[Spec]",
    shard: "Shard" = (1, 1),
    finished: Callable[[str], None] = lambda _: None,
    failed: "Callable[[Group, Exception], None] | None" = None,
) -> None:
    """Do the runs and the measurements of a plan that are not finished, or a share of them.

    Args:
        experiment: makes the measurements.
        runner: does the runs.
        specs: the plan.
        shard: (3, 8) does the third of eight shares.
        finished: called with the name of each run that is finished.
        failed: called with each group of runs that the corpus is too small for, that another process is doing
            or whose loss is no longer finite; the other groups follow. None: the error is raised.

    Raises:
        NotPossible: the corpus is too small for a run.
        RunBusy: another process is doing one of the pre-trainings.
        FloatingPointError: a loss is no longer finite.
    """
    from pcl_jax.corpora.utterance import NotPossible
    from pcl_jax.runs.ledger import RunBusy
    from pcl_jax.runs.plan import groups
    from pcl_jax.runs.spec import Measure

    share = groups(specs, shard)
    for group in share:
        measurements = [spec for spec in group.runs if isinstance(spec, Measure)]
        try:
            session.run_group(runner, group, group.title(share), finished)
            with runner.ledger.claim(measurements, wait=True):
                missing = [spec for spec in measurements if not runner.ledger.find(spec)]
                _measure(experiment, runner, missing)
        except (NotPossible, RunBusy, FloatingPointError) as error:
            if failed is None:
                raise
            failed(group, error)
        else:
            for spec in measurements:
                finished(runner.ledger.name(spec))


def _measure(experiment: Experiment, runner: "Runner", missing: "Sequence[Measure]") -> None:
    from pcl_jax.runs.results import pretrained_on
    from pcl_jax.runs.spec import settings_in_full

    if not missing:
        return
    assert experiment.measure is not None, f"{experiment.name} plans measurements and has no measure"
    began = time.monotonic()
    for spec, facts in experiment.measure(runner, missing):
        pretraining = settings_in_full(spec.start)["pretraining"]
        shared = {
            "method": spec.kind,
            "view": "+".join(spec.views),
            "views": spec.start.views,
            "temperature": pretraining["temperature"],
            "pretrained_on": pretrained_on(spec.start),
            "start": runner.protocol.identity(spec.start),
            "settings": settings_in_full(spec) | {"pretraining": pretraining},
            "seconds": time.monotonic() - began,
        }
        runner.record(spec, **(shared | facts))


def print_tables(experiment: Experiment, runner: "Runner", specs: "Iterable[Spec]") -> None:
    """Print the tables of those runs of a plan that are finished.

    The first is printed always, the others if they have rows.
    """
    from pcl_jax.commands import terminal

    rows = runner.ledger.finished_records(specs)
    choice = choose(rows)
    for exhibit in experiment.exhibits:
        if not exhibit.printed:
            continue
        first = exhibit is experiment.exhibits[0]
        selected = rows if first else exhibit.select(rows, choice)
        if selected or first:
            terminal.out.print(exhibit.table(selected).markdown(), markup=False, highlight=False)
        for run in dict.fromkeys(row["run"] for row in selected) if exhibit.saved_figure else ():
            path = runner.ledger.runs / run / exhibit.saved_figure
            terminal.out.print(f"figure: {path}", markup=False, highlight=False)
