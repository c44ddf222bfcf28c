"""`pcl pretrain` and `pcl finetune`."""

import shlex

from pcl_jax.commands import flags, terminal
from pcl_jax.commands.session import UsageError, open_runner, run_plan
from pcl_jax.commands.session import pretrain as pretrain_with_progress
from pcl_jax.runs.plan import label_efficiency
from pcl_jax.runs.results import saved_encoders
from pcl_jax.runs.spec import Finetune, Labels

COMPARED = {0.05: 3}
"""Share of the labels -> repeats, in the table after `pcl pretrain --compare`."""


def pretrain(command: flags.Pretrain) -> int:
    """Pre-train on a fold; compare few labels with and without it if asked to."""
    if len(command.views) == 1:
        raise UsageError(f"--views {' '.join(command.views)}: pre-training needs two views or more")
    runner = open_runner(command, command.views, "pretrain")
    spec = runner.pretraining(command.fold)
    folder = pretrain_with_progress(runner, spec)
    terminal.out.print(terminal.pretrained_line(runner.ledger.find(spec) or {}))
    if command.compare:
        plan = label_efficiency([spec], runner.settings, COMPARED, probes=False)
        rows = run_plan(runner, plan)
        terminal.out.print(terminal.comparison(rows, terminal.fold_title(runner, command.fold)))
    terminal.out.print(f"run: {folder}", markup=False, highlight=False)
    terminal.out.print(f"next: {_next_command(command, str(folder))}", markup=False, highlight=False)
    return 0


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
    start = saved_encoders(command.pretrained) if command.pretrained else None
    runner = open_runner(command, (command.view,), "finetune")
    (view,) = runner.views  # the name alone of `mine=table.csv`
    labels = Labels(command.fraction, None, command.repeat)
    spec = Finetune(command.fold, view, start, command.frozen, labels, runner.settings)
    row = runner.run_one(spec)
    terminal.out.print(terminal.comparison([row], terminal.fold_title(runner, command.fold)))
    terminal.out.print(f"run: {runner.ledger.folder(spec)}", markup=False, highlight=False)
    return 0
