"""Every table and figure of the paper on one corpus, in an order that gives useful results early.

    make paper CORPUS=iemocap ROOT=DIR
    make paper FAST=1                   # the demo corpus: 2 folds, 3 repeats, few epochs; minutes

Runs the other experiments one after the other and writes the report (`experiments.report`) after each:
Figure 3 with two repeats first, then the temperatures, alignment and embeddings, then Figure 3 in full,
Figure 4, and the sets of views. It can be stopped and started at will, and shared by several processes with
`--shard`; what is done is never done again. One bar for all runs says, from those it has done, how long the
rest takes; beneath it is the bar of the fold that is on.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import tyro

from experiments import (
    alignment,
    embeddings,
    freezing,
    pretraining_data,
    report,
    sparse_labels,
    temperature,
    views_ablation,
)
from pcl_jax import cli
from pcl_jax.commands import flags
from pcl_jax.runs.tables import Table

if TYPE_CHECKING:
    from pcl_jax.runs.plan import Step
    from pcl_jax.runs.study import Study


@dataclass(frozen=True)
class Paper(flags.Experiment):
    """The whole paper."""

    repeats: int = 10
    """Subsets and initialisations per fold and share of the labels."""
    fast: flags.Switch = False
    """Two folds, three repeats, few epochs, two shares of the labels, two temperatures: a tour."""


class Part(NamedTuple):
    """One experiment."""

    title: str
    steps: "list[Step]"
    table: Callable[[], Table]
    """Of its records, when the steps are done."""


def main(command: Paper) -> None:
    from pcl_jax.commands import terminal
    from pcl_jax.runs import plan

    shard = cli.share(command.shard)
    command = quick(command) if command.fast else command
    study = cli.open_study(command, command.views, "paper")
    parts = parts_of(study, command)
    mine = [[step for group in plan.groups(part.steps, shard) for step in group.steps] for part in parts]
    every = {step.folder for steps in mine for step in steps}
    left = every - set(study.done())
    terminal.out.print(f"{len(every):,} runs, {len(left):,} of them still to do", highlight=False)
    page = report.write(command.runs)
    with terminal.bar("all runs") as grid:

        def done(*folders: str) -> None:
            left.difference_update(folders)
            grid(len(every) - len(left), len(every), f"part {number} of {len(parts)}, {part.title}")

        for number, (part, steps) in enumerate(zip(parts, mine, strict=True), start=1):
            terminal.out.rule(f"{number}/{len(parts)} {part.title}", align="left")
            try:
                if not command.table_only:
                    done()
                    cli.carry_out(steps, say=done)
                table = part.table()
            except ValueError as error:  # a corpus too small for one experiment is not for the others
                terminal.out.print(f"not possible here: {error}", markup=False, highlight=False)
                done(*(step.folder for step in steps))
                continue
            terminal.out.print(table.markdown(), markup=False, highlight=False)
            page = report.write(command.runs)
    terminal.out.print(f"report: {page}", highlight=False)


def parts_of(study: "Study", command: Paper) -> list[Part]:
    """The experiments in their order."""
    from pcl_jax.runs import plan

    def part(title: str, module: Any, its: flags.Experiment) -> Part:
        steps = list(module.plan(study, its))
        return Part(title, steps, lambda: module.table(plan.there(steps)))

    def measured(title: str, module: Any, its: flags.Experiment) -> Part:
        def table() -> Table:
            dry = its.table_only
            return module.table([row for fold in its.folds for row in module.measure(study, fold, dry=dry)])

        return Part(title, list(module.plan(study, its)), table)

    few = {"fractions": (0.05, 1.0)} if command.fast else {}
    taus = {"temperatures": (0.1, 0.5)} if command.fast else {}
    sparse = {"fractions": (0.05,)} if command.fast else {}
    first = replace(command, repeats=min(2, command.repeats))
    once = replace(command, repeats=1)
    last = replace(command, folds=command.folds[-1:])
    parts = [
        part("Figure 3, two repeats", sparse_labels, _as(sparse_labels.SparseLabels, first, few)),
        part("Tables 1 and 4", temperature, _as(temperature.Temperature, once, taus)),
        part("Table 2", freezing, _as(freezing.Freezing, once)),
        measured("Table 3", alignment, _as(alignment.Alignment, command)),
        measured("Figures 5 and 6", embeddings, _as(embeddings.Embeddings, last)),
        part("Figure 3", sparse_labels, _as(sparse_labels.SparseLabels, command, few)),
        part("Figure 4", pretraining_data, _as(pretraining_data.PretrainingData, command, sparse)),
    ]
    if len(study.views) > 2:
        ablation = _as(views_ablation.ViewsAblation, command, sparse)
        parts.append(part("Sets of views", views_ablation, ablation))
    return parts


def quick(command: Paper) -> Paper:
    """The tour."""
    return replace(
        command,
        folds=command.folds[:2],
        repeats=min(3, command.repeats),
        pretraining=replace(command.pretraining, epochs=5, batch=64),
        finetuning=replace(command.finetuning, epochs=5),
    )


def _as(kind: type, command: Paper, changes: dict[str, Any] | None = None) -> Any:
    """Another experiment's command, with what it shares with this one."""
    shared = {f.name for f in fields(command)} & {f.name for f in fields(kind)}
    return kind(**({name: getattr(command, name) for name in shared} | (changes or {})))


if __name__ == "__main__":
    command = tyro.cli(Paper, default=flags.default(Paper, sys.argv[1:]), description=__doc__)
    cli.guarded(lambda: main(command), debug=command.debug)
