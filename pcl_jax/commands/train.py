"""`pcl pretrain` and `pcl finetune`. Heavy imports wait until the plan is shown."""

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from pcl_jax.commands import flags, terminal
from pcl_jax.commands.estimates import COMPARISON_COMPILE_S, PRETRAINING_COMPILE_S, epoch_s
from pcl_jax.commands.session import UsageError, open_runner, run_plan
from pcl_jax.commands.session import pretrain as pretrain_with_progress
from pcl_jax.corpora.folds import leave_one_session_out, require_batch

if TYPE_CHECKING:
    from pcl_jax.corpora.utterance import Corpus
    from pcl_jax.runs.runner import Runner
    from pcl_jax.views.view import View

COMPARED = {0.05: 3}
"""Share of the labels -> repeats, in the table after `pcl pretrain --compare`."""


def pretrain(command: flags.Pretrain) -> int:
    """Pre-train on a fold; compare few labels with and without it if asked to."""
    if len(command.views) == 1:
        raise UsageError(f"--views {' '.join(command.views)}: pre-training needs two views or more")
    runner = open_runner(command, command.views, "pretrain", announce=partial(_plan, command))
    spec = runner.pretraining(command.fold)
    with _counted(command, "pre-training"):
        folder = pretrain_with_progress(runner, spec)
    terminal.out.print(terminal.pretrained_line(runner.ledger.find(spec) or {}))
    if command.compare:
        from pcl_jax.runs import reading
        from pcl_jax.runs.plan import label_efficiency

        plan = list(label_efficiency([spec], runner.settings, COMPARED, probes=False))
        with _counted(command, "the comparison"):
            rows = run_plan(runner, plan)
        terminal.out.print(terminal.comparison(rows, terminal.fold_title(runner, command.fold)))
        answers, truth = reading.read_answers(runner.ledger, plan, runner.corpus)
        terminal.out.print(reading.sentence(answers, truth), markup=False, highlight=False)
        terminal.out.print(_recipe_line(runner, command.fold), markup=False, highlight=False)
    terminal.out.print(f"run: {folder}", markup=False, highlight=False)
    terminal.out.print(f"next: {_next_command(command, str(folder))}", markup=False, highlight=False)
    return 0


def _recipe_line(runner: "Runner", fold: int) -> str:
    """Train the recipe and the best simple probe on the same few labels; return how they do."""
    from pcl_jax.runs.spec import FewLabels, Labels

    share = min(COMPARED)
    scores, n_labelled = {}, 0
    for method in ("probe", "recipe"):
        draws = [Labels(share, None, repeat) for repeat in range(COMPARED[share])]
        rows = run_plan(runner, [FewLabels(fold, tuple(runner.views), method, labels) for labels in draws])
        scores[method] = 100 * sum(row["uar"] for row in rows) / len(rows)
        n_labelled = rows[0]["n_labelled"]
    return (
        f"Without training networks, on the same {n_labelled} labels: UAR {scores['probe']:.1f} by the best "
        f"single view, {scores['recipe']:.1f} by the recipe (all views, co-training; see `pcl learn`)."
    )


def _plan(command: flags.Pretrain, corpus: "Corpus", views: "Mapping[str, View]") -> str:
    """Return what `pcl pretrain` will do, and how long that takes at most on a CPU."""
    import jax

    def about(seconds: float) -> str:
        return f", {terminal.duration(seconds)} at most" if jax.default_backend() == "cpu" else ""

    fold = next(f for f in leave_one_session_out(corpus) if f.test_session == command.fold)
    require_batch(len(fold.train), command.pretraining.batch)  # of a subset there are fewer still
    train_s, validation_s = (sum(u.duration_s for u in part) for part in (fold.train, fold.validation))
    epochs = command.pretraining.epochs
    steps = [
        f"extract features where they are missing: {', '.join(views)}",
        f"pre-train on {len(fold.train):,} utterances, {epochs} epochs or fewer"
        + about(PRETRAINING_COMPILE_S + epochs * epoch_s(views.values(), train_s, validation_s)),
    ]
    if command.compare:
        epochs = command.finetuning.epochs
        repeats = sum(COMPARED.values())
        one_s = sum(
            count * epoch_s(views.values(), share * train_s, validation_s)
            for share, count in COMPARED.items()
        )
        steps.append(
            f"compare {3 * repeats * len(views)} fine-tunings, with and without it"
            + about(COMPARISON_COMPILE_S + 3 * epochs * one_s)
        )
    return "plan: " + "; ".join(f"{number}. {step}" for number, step in enumerate(steps, start=1))


@contextmanager
def _counted(command: flags.Pretrain, work: str) -> Iterator[None]:
    """Say how many programs some work compiled, if asked to debug."""
    from pcl_jax.devices import count_programs

    with count_programs() as programs:
        yield
    if command.debug:
        names = ", ".join(f"{count} x {name}" for name, count in Counter(programs).items())
        terminal.out.print(f"programs of {work}: {len(programs)} ({names})", markup=False, highlight=False)


def _next_command(command: flags.Pretrain, folder: str) -> str:
    """Return the command that fine-tunes from a pre-training, with the flags that it must share."""
    words = ["pcl finetune", *flags.words_to_repeat(command), f"--fold {command.fold}", "--view egemaps"]
    return " ".join([*words, f"--pretrained {shlex.quote(folder)}", "--fraction 0.1"])


def finetune(command: flags.Finetune) -> int:
    """Train a classifier on labelled utterances, test it, print its scores."""
    if command.supervised == (command.pretrained is not None):
        raise UsageError("give either --pretrained RUN or --supervised")
    if command.supervised and command.frozen:
        raise UsageError("--frozen needs --pretrained: a fresh encoder that stays fresh learns nothing")
    if not 0 < command.fraction <= 1:
        raise UsageError(f"--fraction {command.fraction} is not a share of the labels; give 0 < P <= 1")
    from pcl_jax.runs.results import saved_encoders
    from pcl_jax.runs.spec import Finetune, Labels

    start = saved_encoders(command.pretrained) if command.pretrained else None
    runner = open_runner(command, (command.view,), "finetune")
    (view,) = runner.views  # the name alone of `mine=table.csv`
    labels = Labels(command.fraction, None, command.repeat)
    spec = Finetune(command.fold, view, start, command.frozen, labels, runner.settings)
    row = runner.run_one(spec)
    terminal.out.print(terminal.comparison([row], terminal.fold_title(runner, command.fold)))
    terminal.out.print(f"run: {runner.ledger.folder(spec)}", markup=False, highlight=False)
    return 0
