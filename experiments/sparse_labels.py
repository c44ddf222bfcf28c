"""Figure 3: UAR over the share of labels, supervised against Pairwise-CL.

    python -m experiments.sparse_labels --corpus emodb --root DIR --repeats 5

Paper (IEMOCAP, three views, 10 repeats): gains of up to 10-15 UAR at 2 and 5 % of the labels for mel
and eGeMAPS, smaller for wav2vec 2.0. All folds are pre-trained first where they are not; finished
runs are not repeated, so it can be stopped and started at will. Two views and five repeats took 80 minutes
on RAVDESS (1,440 utterances) on one CPU core that had other work besides.

Prints one Markdown table: per view and share, mean UAR in % over repeats (each repeat is the mean over
the folds) with the half-width of its 95 % t-interval, tuned minus supervised, and the p of the
paper's Mann-Whitney U test. Repeats share test folds and are not independent: the intervals say how
much subset and initialisation matter, not how the next corpus would come out.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import tyro

from pcl_jax import cli, config, flags


@dataclass(frozen=True)
class SparseLabels(flags.OnFeatures):
    """Label-efficiency curves on all folds."""

    views: flags.Views = ()
    folds: tuple[flags.Fold, ...] = (1, 2, 3, 4, 5)
    """Test sessions."""
    repeats: int = 10
    """Subsets and initialisations per fold and share."""
    fractions: tuple[float, ...] = (0.02, 0.05, 0.1, 0.25, 1.0)
    """Shares of the labels."""
    pretraining: config.Pretraining = field(default_factory=config.Pretraining)
    finetuning: config.Finetuning = field(default_factory=config.Finetuning)
    table_only: flags.Switch = False
    """Run nothing; print the table of what there is."""


def main(command: SparseLabels) -> None:
    from pcl_jax import terminal
    from pcl_jax.training.compare import compare, grid

    study = cli.open_study(command, command.views, "sparse_labels")
    repeats = dict.fromkeys(command.fractions, command.repeats)
    rows = []
    for fold in command.folds:
        if not command.table_only:
            run = cli.pretrain_fold(study, fold)
            with terminal.bar(f"fold {fold}") as progress:
                for done, total, row in compare(study, fold, run, repeats, probes=True):
                    rows.append(row)
                    progress(done, total, terminal.task_line(row))
        else:
            done, run = study.done(), study.pretraining_folder(fold)
            wanted = (study.folder(r) for r in grid(fold, study.views, run, repeats, probes=True))
            rows += [done[name] for name in map(study.relative, wanted) if name in done]
    terminal.out.print("\n".join(table(rows)), markup=False, highlight=False)


def table(rows: Sequence[dict]) -> Iterator[str]:
    """Markdown: one line per view and share of labels."""
    from pcl_jax.significance import mann_whitney, t_interval
    from pcl_jax.training.compare import PROBES, WAYS, way

    columns = WAYS | PROBES
    folds = {row["fold"] for row in rows}
    yield "| view | labels | n | " + " | ".join(columns.values()) + " | tuned - supervised | p |"
    yield "|---|---|---|" + "---|" * (len(columns) + 2)
    for view in sorted({row["title"] for row in rows}):
        for fraction in sorted({row["fraction"] for row in rows}):
            cell = [row for row in rows if row["title"] == view and row["fraction"] == fraction]
            of = {name: per_repeat([row for row in cell if way(row) == name], folds) for name in columns}
            texts = []
            for values in of.values():
                mean, half = t_interval(values) if len(values) else (np.nan, np.nan)
                texts.append(f"{mean:.1f} ± {half:.1f}" if len(values) else "not run")
            gain = p = "not run"
            if len(of["tuned"]) == len(of["supervised"]) > 1:
                mean, half = t_interval(of["tuned"] - of["supervised"])
                gain, p = f"{mean:+.1f} ± {half:.1f}", f"{mann_whitney(of['tuned'], of['supervised']):.2f}"
            n = np.mean([row["n_labelled"] for row in cell])
            yield f"| {view} | {fraction:.0%} | {n:.0f} | " + " | ".join([*texts, gain, p]) + " |"


def per_repeat(rows: Sequence[dict], folds: set[int]) -> np.ndarray:
    """UAR in %, mean over the folds, of each repeat that all of them have."""
    repeats = sorted({row["repeat"] for row in rows})
    means = []
    for repeat in repeats:
        of_repeat = {row["fold"]: row["uar"] for row in rows if row["repeat"] == repeat}
        if set(of_repeat) == folds:
            means.append(100 * np.mean(list(of_repeat.values())))
    return np.array(means)


if __name__ == "__main__":
    command = tyro.cli(SparseLabels, default=flags.default(SparseLabels, sys.argv[1:]), description=__doc__)
    cli.guarded(lambda: main(command), debug=command.debug)
