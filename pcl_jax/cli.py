"""The command `pcl`: flags in, calls, text out. No logic lives here.

Heavy imports wait until a command runs, so that `--help` and a wrong flag answer at once.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pcl_jax import config
from pcl_jax.commands.flags import (
    Command,
    Common,
    Corpus,
    Experiment,
    Extract,
    Features,
    Finetune,
    OnDevices,
    OnFeatures,
    Pretrain,
    parse,
)

if TYPE_CHECKING:
    from pcl_jax.corpora import Corpus as CorpusRecord
    from pcl_jax.data.load import ExtraCorpus
    from pcl_jax.features.extract import Extraction, Plan
    from pcl_jax.runs.plan import Shard, Step
    from pcl_jax.runs.records import Row
    from pcl_jax.runs.study import Study
    from pcl_jax.views.view import View

COMPARED = {0.05: 3, 1.0: 1}
"""Share of the labels -> repeats, in the table after `pcl pretrain --compare`."""


class UsageError(ValueError):
    """A command that cannot be meant: exit code 2."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `pcl`; the words of the command line by default."""
    command = parse(sys.argv[1:] if arguments is None else arguments)
    guarded(lambda: run(command), debug=command.debug)


def guarded(body: Callable[[], int | None], *, debug: bool) -> None:
    """Run to the end of the process. Exit code 0: all was done; 2: wrong use; 1: the rest; 130: Ctrl-C."""
    signal.signal(signal.SIGTERM, _interrupt)  # like Ctrl-C: save, say so, stop
    try:
        code = body() or 0
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("pcl: stopped; the same command goes on from here", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # `pcl ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        else:
            print(f"pcl: {error or type(error).__name__}", file=sys.stderr)
        code = 2 if isinstance(error, UsageError) else 1
    sys.exit(code)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def run(command: Command) -> int:
    """Do it; the exit code."""
    match command:
        case Corpus():
            return show_corpus(command)
        case Extract():
            extract(command)
        case Features():
            return features(command)
        case Pretrain():
            pretrain(command)
        case Finetune():
            finetune(command)
    return 0


def require_root(command: Common) -> None:
    if command.corpus != "demo" and command.root is None:
        raise UsageError(f"--corpus {command.corpus} needs --root: where does it lie?")


def read_corpus(command: Common) -> "CorpusRecord":
    from pcl_jax.corpora import parse_targets, read

    require_root(command)
    try:
        targets = parse_targets(command.targets) if command.targets else None
    except ValueError as error:
        raise UsageError(str(error)) from error
    return read(command.corpus, command.root, targets=targets)


def show_corpus(command: Corpus) -> int:
    from pcl_jax.commands import terminal
    from pcl_jax.corpora.inspect import inspect, render

    inspection = inspect(read_corpus(command))
    if command.json:
        print(json.dumps(inspection.to_json(), indent=1))
    else:
        terminal.out.print(render(inspection))
    return 0 if inspection.usable else 1


def choose_views(command: OnFeatures, views: Sequence[str]) -> "dict[str, View]":
    """The views of these names, or the default ones, with the command's parameters."""
    from pcl_jax.commands import terminal
    from pcl_jax.views.catalogue import catalogue, choose

    require_root(command)
    checkpoints = command.speech_model or (("untrained",) if command.corpus == "demo" else ())
    try:
        with terminal.out.status("looking for the speech model"):
            known = catalogue(command.view_settings, checkpoints)
            choice = choose(known, views, checkpoints)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if choice.remark:
        terminal.err.print(choice.remark, markup=False, highlight=False)
    return choice.views


def extract_features(
    command: OnFeatures, views: "Mapping[str, View]", corpus: "CorpusRecord", shard: "Shard | None" = None
) -> "Extraction":
    """Bring the stores of the corpus up to date."""
    import jax

    from pcl_jax.commands import terminal
    from pcl_jax.devices import keep_compiled_programs
    from pcl_jax.features.extract import extract

    if corpus.synthetic:
        terminal.out.print("The demo corpus is SYNTHETIC speech: nothing it shows holds for people.")
    keep_compiled_programs()

    def announce(plan: "Plan") -> None:
        if jax.process_count() > 1:
            raise UsageError(
                f"features of {plan.utterances} utterances are missing; several processes train on what is "
                "there: run `pcl extract` with the same flags first"
            )
        terminal.out.print(terminal.plan_line(plan), highlight=False)

    with terminal.bar("extract") as progress:
        extraction = extract(
            corpus,
            list(views.values()),
            command.features,
            workers=command.workers,
            on_bad_audio=command.on_bad_audio,
            shard=shard,
            announce=announce,
            progress=progress,
        )
    if any(extraction.computed.values()):
        terminal.out.print(terminal.extracted_line(extraction), highlight=False)
    for id, why in extraction.skipped.items():
        terminal.err.print(f"skipped {id}: {why}")
    return extraction


def open_study(command: OnDevices, views: Sequence[str], experiment: str = "") -> "Study":
    """The corpus with the features of these views extracted, ready to train on."""
    import jax

    from pcl_jax.runs.study import open_study

    if command.processes:
        join(command)
    if command.precision != "float32" and jax.default_backend() == "cpu":
        raise UsageError(f"--precision {command.precision} is for accelerators: a CPU computes float32")
    chosen = choose_views(command, views)
    corpus = read_corpus(command)
    settings = config.Settings(
        command.normalise,
        command.encoders,
        getattr(command, "pretraining", config.Pretraining()),
        getattr(command, "finetuning", config.Finetuning()),
        command.precision,
    )
    return open_study(
        corpus,
        chosen,
        settings,
        extract_features(command, chosen, corpus),
        runs=command.runs,
        seed=command.seed,
        devices=command.devices,
        experiment=experiment,
        resident=command.resident,
    )


def join(command: OnDevices) -> None:
    """Become one of several processes; the first speaks for all."""
    import jax

    from pcl_jax import devices
    from pcl_jax.commands import terminal

    if command.devices is not None:
        raise UsageError("--devices and --processes exclude each other: processes use all their devices")
    try:
        devices.join_processes(command.processes)
    except ValueError as error:
        raise UsageError(str(error)) from error
    terminal.out.quiet = terminal.err.quiet = jax.process_index() > 0


def extract(command: Extract) -> None:
    shard = share(command.shard) if command.shard else None
    chosen = choose_views(command, command.views)
    extract_features(command, chosen, read_corpus(command), shard)


def features(command: Features) -> int:
    from pcl_jax.commands import terminal
    from pcl_jax.features import maintain as manage
    from pcl_jax.features import store

    match command.action:
        case "list":
            terminal.out.print(terminal.stores_table(manage.stores(command.features)))
        case "verify":
            return _verify(command)
        case "gc":
            unused = manage.unused_stores(command.features, command.runs)
            for kept in unused:
                terminal.out.print(f"{kept.folder} ({terminal.size(kept.bytes)})", highlight=False)
            total = terminal.size(sum(kept.bytes for kept in unused))
            question = f"remove these {len(unused)}, {total}? [y/N] "
            if unused and (command.yes or terminal.ask(question)):
                for kept in unused:
                    store.remove(kept.folder)
                terminal.out.print(f"removed {total}")
            else:
                terminal.out.print("removed nothing" + (" (--yes does)" if unused else ": all is needed"))
        case "export":
            if command.to is None or len(command.views) != 1:
                raise UsageError(
                    "export needs one view and a place: --views NAME --to FILE.csv (.parquet, or a folder)"
                )
            (view,) = choose_views(command, command.views).values()
            corpus = read_corpus(command)
            there = store.open(store.place(command.features, corpus.name, view.name, view.describe()))
            from pcl_jax.features.export import export as write_features

            count = write_features(corpus, view.name, there, command.to)
            terminal.out.print(f"{view.title} of {count} utterances: {command.to}", highlight=False)
    return 0


def _verify(command: Features) -> int:
    from pcl_jax.commands import terminal
    from pcl_jax.features import maintain as manage
    from pcl_jax.features import store

    corpus = read_corpus(command) if command.root is not None else None
    whole = True
    for kept in manage.stores(command.features):
        damaged = manage.damaged_parts(kept.folder)
        for part, faults in damaged.items():
            terminal.out.print(*faults, sep="\n", markup=False, highlight=False)
            if command.repair:
                part.unlink()
                terminal.out.print(f"{part}: removed; pcl extract computes its rows anew", highlight=False)
        changed = []
        if corpus is not None and corpus.name == kept.corpus and (command.repair or not damaged):
            changed = manage.changed_audio(store.open(kept.folder), corpus.utterances)
        for id in changed:
            terminal.out.print(f"{kept.folder}: the audio of {id!r} is another now, or gone", markup=False)
        if not damaged and not changed:
            terminal.out.print(f"{kept.folder}: whole", highlight=False)
        whole &= not changed and (not damaged or command.repair)
    return 0 if whole else 1


def pretrain(command: Pretrain) -> None:
    from pcl_jax.commands import terminal

    if len(command.views) == 1:
        raise UsageError(f"--views {' '.join(command.views)}: pre-training needs two views or more")
    study = open_study(command, command.views, "pretrain")
    run = pretrain_fold(study, command.fold)
    terminal.out.print(terminal.pretrained_line(study.done()[study.relative(run)]))
    if command.compare:
        from pcl_jax.runs.plan import label_efficiency

        rows = carry_out(list(label_efficiency(study, [command.fold], COMPARED, probes=False)))
        terminal.out.print(terminal.comparison(rows, terminal.fold_title(study, command.fold)))
    terminal.out.print(f"run: {run}")
    flags = terminal.flags_of(command.corpus, command.root)
    terminal.out.print(
        f"next: pcl finetune {flags} --fold {command.fold} --view egemaps --pretrained {run} --fraction 0.1"
    )


def pretrain_fold(study: "Study", fold: int) -> Path:
    """Pre-train on a fold where that is not done, with a progress bar; the run's folder."""
    from pcl_jax.commands import terminal
    from pcl_jax.runs import runner as runs

    for line in runs.stopped(study, fold):
        terminal.out.print(line, markup=False, highlight=False)
    with terminal.bar(f"fold {fold}, pre-train") as progress:
        return runs.pretrain(
            study, fold, lambda row, epochs: progress(row["epoch"], epochs, terminal.epoch_line(row))
        )


def carry_out(
    steps: "Sequence[Step]", shard: "Shard" = (1, 1), say: Callable[[str], None] = lambda _: None
) -> "list[Row]":
    """Run what is missing of a plan, or of a share of it, with progress bars; the records there are then.

    `say` is told the folder of each run that is done.
    """
    from pcl_jax.commands import terminal
    from pcl_jax.runs import plan
    from pcl_jax.runs.runner import evaluate_all

    groups = plan.groups(steps, shard)
    for group in groups:
        if group.pretrains:
            say(group.study.relative(pretrain_fold(group.study, group.fold)))
        with terminal.bar(group.title(groups)) as progress:
            for number, row in enumerate(evaluate_all(group.study, group.runs), start=1):
                progress(number, len(group.runs), terminal.task_line(row))
                say(row["run"])
    return plan.there(steps)


def beside(command: Experiment, study: "Study", words: Iterable[str]) -> "list[ExtraCorpus]":
    """Other corpora with their features, of words like `ravdess=DIR`."""
    from dataclasses import replace

    from pcl_jax.corpora import CorpusError, read
    from pcl_jax.data.load import ExtraCorpus

    found = []
    for word in words:
        name, _, root = word.partition("=")
        try:
            corpus = read(name, Path(root) if root else None)
        except CorpusError as error:
            raise UsageError(f"--also {word}: {error}") from error
        extraction = extract_features(command, study.views, corpus)
        kept = tuple(u for u in corpus.utterances if u.id not in extraction.skipped)
        found.append(ExtraCorpus(replace(corpus, utterances=kept), extraction.stores))
    return found


def experiment(command: Experiment, name: str, plan_of: "Callable[[Study], Iterable[Step]]") -> "list[Row]":
    """Do an experiment of the paper, or with `--table-only` nothing; the records there are of it."""
    from pcl_jax.runs import plan

    shard = share(command.shard)
    steps = list(plan_of(open_study(command, command.views, name)))
    return plan.there(steps) if command.table_only else carry_out(steps, shard)


def share(text: str) -> "Shard":
    """3/8 -> (3, 8); nothing -> all."""
    numbers = (text or "1/1").split("/")
    if (
        len(numbers) != 2
        or not all(map(str.isdecimal, numbers))
        or not 1 <= int(numbers[0]) <= int(numbers[1])
    ):
        raise UsageError(f"--shard {text} is no share; 3/8 is the third of eight")
    return int(numbers[0]), int(numbers[1])


def finetune(command: Finetune) -> None:
    from pcl_jax.commands import terminal
    from pcl_jax.runs.runner import evaluate
    from pcl_jax.runs.study import Task

    if command.supervised == (command.pretrained is not None):
        raise UsageError("give either --pretrained RUN or --supervised")
    if command.supervised and command.frozen:
        raise UsageError("--frozen needs --pretrained: a fresh encoder that stays fresh learns nothing")
    if not 0 < command.fraction <= 1:
        raise UsageError(f"--fraction {command.fraction} is not a share of the labels; give 0 < P <= 1")
    study = open_study(command, (command.view,), "finetune")
    (view,) = study.views  # of `mine=table.csv`, mine
    task = Task(command.fold, view, command.pretrained, command.frozen, command.fraction, command.repeat)
    row = evaluate(study, task)
    terminal.out.print(terminal.comparison([row], terminal.fold_title(study, command.fold)))
    terminal.out.print(f"run: {command.runs / row['run']}")
