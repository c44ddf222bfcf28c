"""Every table and figure of the paper on one corpus, in an order that gives useful results early.

    make paper CORPUS=iemocap ROOT=DIR
    make paper FAST=1                   # the demo corpus: 2 folds, 3 repeats, few epochs; minutes

The command runs the other experiments one after the other and writes the report (`experiments.report`)
after each: Figure 3 with two repeats first, then the temperatures, alignment and embeddings, then Figure 3
in full, Figure 4, and the sets of views. Finished runs are never repeated: stop it and run it again to
resume. Where there is no accelerator, several processes do a thousand runs or more, each on CPUs of its own
(`experiments.processes`); on several hosts, `--shard` shares them out: a pre-training and everything that
starts from it belong to one share in all parts. One bar for all runs says, from those that were done, how
long the rest takes; in a single process, the bar of the fold that is being run is beneath it.

Runs that another process is doing are returned to at the end. Exit code 0: everything was done that this
corpus makes possible; parts for which it is too small are named. Exit code 1: something was not done, or
the report has an error.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments import processes, report
from experiments.experiment import Experiment, carry_out, load, print_tables, run_command
from pcl_jax.commands import flags

if TYPE_CHECKING:
    from pcl_jax.features.store import Shard
    from pcl_jax.runs.plan import Group
    from pcl_jax.runs.runner import Runner
    from pcl_jax.runs.spec import Spec


NAME = "paper"
"""Name that its records have of what the runs are done for."""


@dataclass(frozen=True)
class Paper(flags.Experiment):
    """The whole paper."""

    repeats: int = 10
    """Subsets and initialisations per fold and share of the labels."""
    workers: int | None = None
    """Processes that extract features, and on a CPU share many runs, one for each fold at most; None: one for
    each CPU."""
    fast: flags.Switch = False
    """Two folds, three repeats, few epochs, two shares of the labels, two temperatures: a tour."""


class Part(NamedTuple):
    """One experiment with the flags that the paper needs."""

    title: str
    experiment: Experiment
    specs: "list[Spec]"


@dataclass
class Outcome:
    """Account of the runs that were not done."""

    postponed: "list[tuple[Part, list[Spec]]]" = field(default_factory=list)
    """Runs that another process is doing."""
    impossible: dict[str, str] = field(default_factory=dict)
    """Title of a part -> why the corpus cannot have all of it."""
    failed: list[str] = field(default_factory=list)
    """A line for each error."""


def run_paper(command: Paper) -> int:
    """Do everything that is missing; return the exit code."""
    from pcl_jax.commands import session, terminal

    shard = session.parse_shard(command.shard)
    command = quick(command) if command.fast else command
    runner = session.open_runner(command, command.views, NAME)
    parts = parts_of(runner, command)
    shares = share_out(parts, shard)
    names = {runner.ledger.name(spec) for specs in shares for spec in specs}
    missing = {runner.ledger.name(spec) for specs in shares for spec in specs if not runner.ledger.find(spec)}
    terminal.out.print(f"{len(names):,} runs, {len(missing):,} of them still to do", highlight=False)
    page, outcome = report.write(command.runs), Outcome()
    label = ""
    with terminal.bar("all runs") as grid:

        def finished(name: str) -> None:
            missing.discard(name)
            grid(len(names) - len(missing), len(names), label)

        count = processes.choose_count(command, len(missing))
        if count > 1:
            label = f"{count} processes"
            processes.work_together(command, count, make_watch(runner, parts, missing, finished))
        for number, (part, specs) in enumerate(zip(parts, shares, strict=True), start=1):
            label = f"part {number} of {len(parts)}, {part.title}"
            terminal.out.rule(f"{number}/{len(parts)} {part.title}", align="left")
            if not command.table_only:
                finished("")
                do(part, runner, specs, finished, outcome)
            print_tables(part.experiment, runner, part.specs)
            page = report.write(command.runs)
        if outcome.postponed:
            return_to(runner, finished, outcome)
            page = report.write(command.runs)
    for error in page.errors:
        terminal.err.print(f"report: {error}", markup=False, highlight=False)
    for line in outcome.failed:
        terminal.err.print(line, markup=False, highlight=False)
    for title, reason in outcome.impossible.items():
        terminal.out.print(f"not possible here: {title}: {reason}", markup=False, highlight=False)
    terminal.out.print(f"report: {page.path}", markup=False, highlight=False)
    done_nothing = bool(names) and len(missing) == len(names) and not command.table_only
    return 1 if outcome.failed or page.errors or done_nothing else 0


def make_watch(
    runner: "Runner", parts: Sequence[Part], missing: set[str], finished: Callable[[str], None]
) -> Callable[[], None]:
    """Return a function that notes what other processes have done, and writes the report as a part ends."""
    find, name_of = runner.ledger.find, runner.ledger.name
    waiting = [{name: spec for spec in part.specs if (name := name_of(spec)) in missing} for part in parts]

    def watch() -> None:
        for specs in waiting:
            done = [name for name, spec in specs.items() if find(spec)]
            for name in done:
                del specs[name]
                finished(name)
            if done and not specs:
                report.write(runner.ledger.runs)

    return watch


def do(
    part: Part, runner: "Runner", specs: "Sequence[Spec]", finished: Callable[[str], None], outcome: Outcome
) -> None:
    """Do the runs of a part; note those that were not done, and why."""
    from pcl_jax.commands import terminal
    from pcl_jax.corpora.utterance import NotPossible
    from pcl_jax.runs.ledger import RunBusy

    def failed(group: "Group", error: Exception) -> None:
        match error:
            case RunBusy():
                outcome.postponed.append((part, group.specs))
                line = f"returned to later: {error}"
            case NotPossible():
                outcome.impossible[part.title] = str(error)
                line = f"not possible here: {error}"
            case _:
                line = f"{part.title}, fold {group.fold}: {error}"
                outcome.failed.append(line)
        terminal.out.print(line, markup=False, highlight=False)

    carry_out(part.experiment, runner, specs, finished=finished, failed=failed)


def return_to(runner: "Runner", finished: Callable[[str], None], outcome: Outcome) -> None:
    """Do the runs that another process was doing, as soon as they are free."""
    from pcl_jax.commands import terminal
    from pcl_jax.runs.ledger import wait_for_others

    terminal.out.rule("runs that another process was doing", align="left")
    while outcome.postponed:
        waiting, outcome.postponed = outcome.postponed, []
        for part, specs in waiting:
            do(part, runner, specs, finished, outcome)
        if len(outcome.postponed) == len(waiting):
            wait_for_others()


def share_out(parts: Sequence[Part], shard: "Shard") -> "list[list[Spec]]":
    """Return this process's share of each part; a run belongs to the same share in all parts."""
    from pcl_jax.runs.plan import groups

    number, count = shard
    every = groups([spec for part in parts for spec in part.specs])
    share_of: dict[Spec, int] = {}
    for index, group in enumerate(every):
        for spec in group.specs:
            share_of.setdefault(spec, index % count)
    return [[spec for spec in part.specs if share_of[spec] == number - 1] for part in parts]


def parts_of(runner: "Runner", command: Paper) -> list[Part]:
    """Return the experiments in their order."""

    def part(title: str, name: str, base: Paper, **changes: Any) -> Part:
        experiment = load(name)
        shared = {f.name for f in fields(base)} & {f.name for f in fields(experiment.flags)}
        flags_of_part = experiment.flags(**({name: getattr(base, name) for name in shared} | changes))
        return Part(title, experiment, list(experiment.plan(runner, flags_of_part)))

    few = {"fractions": (0.05, 1.0)} if command.fast else {}
    temperatures = {"temperatures": (0.1, 0.5)} if command.fast else {}
    sparse = {"fractions": (0.05,)} if command.fast else {}
    first = replace(command, repeats=min(2, command.repeats))
    once = replace(command, repeats=1)
    parts = [
        part("Figure 3, two repeats", "sparse_labels", first, **few),
        part("Tables 1 and 4", "temperature", once, **temperatures),
        part("Table 2", "freezing", once),
        part("Table 3", "alignment", command),
        part("Table 5", "model_sizes", command),
        part("Figures 5 and 6", "embeddings", replace(command, folds=command.folds[-1:])),
        part("Figure 3", "sparse_labels", command, **few),
        part("Figure 4", "pretraining_data", command, **sparse),
    ]
    if len(runner.views) > 2:
        parts.append(part("Sets of views", "views_ablation", command, **sparse))
    return parts


def quick(command: Paper) -> Paper:
    """Return the flags of the tour."""
    return replace(
        command,
        folds=command.folds[:2],
        repeats=min(3, command.repeats),
        pretraining=replace(command.pretraining, epochs=5, batch=64),
        finetuning=replace(command.finetuning, epochs=5),
    )


if __name__ == "__main__":
    run_command(Paper, run_paper, __doc__)
