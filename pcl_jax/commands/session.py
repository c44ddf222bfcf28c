"""Service layer of the commands and the experiments: open a corpus, extract its features, run a plan.

Everything cheap is checked before anything slow. Heavy imports wait until they are needed.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pcl_jax.commands.flags import Common, Experiment, OnAudio, OnDevices
from pcl_jax.corpora.utterance import CorpusError

if TYPE_CHECKING:
    from pcl_jax.corpora.utterance import Corpus
    from pcl_jax.features.extract import Extraction, Plan
    from pcl_jax.features.store import Shard, Store
    from pcl_jax.runs.plan import Group
    from pcl_jax.runs.records import Row
    from pcl_jax.runs.runner import Runner
    from pcl_jax.runs.spec import Pretrain, Spec
    from pcl_jax.views.view import View


SHOWN_REASONS = 3
"""Reasons that a command shows for utterances that are left out; `pcl corpus` shows all."""


class UsageError(ValueError):
    """A command that cannot be meant: exit code 2."""


def require_root(command: Common) -> None:
    """Raise UsageError or CorpusError unless the command says where its corpus lies, and that exists."""
    if command.corpus == "demo":
        return
    if command.root is None:
        raise UsageError(f"--corpus {command.corpus} needs --root: the folder of the corpus, or the table")
    if not command.root.exists():
        raise CorpusError(f"--root {command.root} does not exist")


def read_corpus(command: Common) -> "Corpus":
    """Read the corpus of a command.

    Raises:
        UsageError: no root, or targets that cannot be meant.
        CorpusError: the corpus cannot be read.
    """
    from pcl_jax.corpora import parse_targets, read

    require_root(command)
    try:
        targets = parse_targets(command.targets) if command.targets else None
    except ValueError as error:
        raise UsageError(str(error)) from error
    return read(command.corpus, command.root, targets=targets)


def read_usable(command: OnAudio) -> "Corpus":
    """Read the corpus of a command that computes or trains; deal with utterances that it claims and lacks.

    Raises:
        UsageError: as `read_corpus`.
        CorpusError: the corpus cannot be read, or utterances are left out and `--on-bad-audio` is "error".
    """
    from pcl_jax.commands import terminal

    if command.corpus == "demo" and not (command.root or Path("demo")).exists():
        terminal.out.print("making the demo corpus, on first use", markup=False, highlight=False)
    corpus = read_corpus(command)
    terminal.out.print(terminal.corpus_line(corpus), markup=False, highlight=False)
    _show_problems(command, corpus)
    return corpus


def _show_problems(command: OnAudio, corpus: "Corpus") -> None:
    """Show what is wrong with a corpus in a line or two.

    Raises:
        CorpusError: Utterances are left out and `--on-bad-audio` is "error".
    """
    from pcl_jax.commands import terminal

    remarks = [problem for problem in corpus.problems if not problem.lost]
    if remarks:
        kinds = Counter(problem.kind for problem in remarks)
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        line = f"remarks on {corpus.name} (`pcl corpus` lists all): {counts}; the first: {remarks[0].message}"
        terminal.err.print(line, markup=False, highlight=False)
    count, reasons = corpus.left_out.count, corpus.left_out.lines
    if not count:
        return
    shown = "; ".join(reasons[:SHOWN_REASONS]) + (" ..." if len(reasons) > SHOWN_REASONS else "")
    line = f"{count} of {count + len(corpus.utterances)} utterances are left out: {shown}"
    if command.on_bad_audio == "error":
        raise CorpusError(
            f"{line} (`pcl corpus` lists all; mend them, or pass --on-bad-audio skip to go on without)"
        )
    terminal.err.print(line, markup=False, highlight=False)


def check_views(command: OnAudio, names: Sequence[str]) -> None:
    """Raise UsageError, CorpusError or ValueError for what is wrong with a command and needs no model to see.

    Raises:
        UsageError: No root, or views that cannot be meant.
        CorpusError: The root does not exist.
    """
    from pcl_jax.views.catalogue import check_names

    require_root(command)
    for name in names:
        if not re.fullmatch(r"[\w-]+(=.+)?", name):
            raise UsageError(f"--views {name}: a name has letters, digits, _ and - only")
    try:
        check_names(names)
    except ValueError as error:
        raise UsageError(str(error)) from error


def choose_views(command: OnAudio, names: Sequence[str]) -> "dict[str, View]":
    """Return the views of these names, or the default ones, with the command's parameters."""
    from pcl_jax.commands import terminal
    from pcl_jax.views.catalogue import catalogue, choose
    from pcl_jax.views.speech_models.families import TINY

    check_views(command, names)
    checkpoints = command.speech_model or ((TINY,) if command.corpus == "demo" else ())
    try:
        with terminal.out.status("looking for the speech model"):
            known = catalogue(command.view_settings, checkpoints)
            choice = choose(known, names, checkpoints)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if choice.remark:
        terminal.err.print(choice.remark, markup=False, highlight=False)
    return choice.views


def extract_features(
    command: OnAudio, views: "Mapping[str, View]", corpus: "Corpus", shard: "Shard | None" = None
) -> "Extraction":
    """Compute the features that are missing, with a progress bar.

    Raises:
        UsageError: features are missing, and several processes train as one or only a table is wanted.
    """
    import jax

    from pcl_jax.commands import terminal
    from pcl_jax.devices import keep_compiled_programs
    from pcl_jax.features.extract import extract
    from pcl_jax.views.table import TableView

    keep_compiled_programs()
    for view in views.values():
        if isinstance(view, TableView):
            view.require_no_labels(corpus.utterances)

    def announce(plan: "Plan") -> None:
        if isinstance(command, Experiment) and command.table_only:
            raise UsageError(
                f"features of {plan.utterances} utterances are missing: nothing was run on all of them yet, "
                "and --table-only runs nothing"
            )
        if jax.process_count() > 1:
            raise UsageError(
                f"features of {plan.utterances} utterances are missing; several processes train on features "
                "that are there: run `pcl extract` with the same flags first"
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
    for id, error in extraction.skipped.items():
        terminal.err.print(f"skipped {id}: {error}", markup=False, highlight=False)
    return extraction


def open_runner(
    command: OnDevices,
    names: Sequence[str],
    experiment: str,
    *,
    extra_corpora: Iterable[str] = (),
    announce: "Callable[[Corpus, Mapping[str, View]], str] | None" = None,
) -> "Runner":
    """Open the corpus of a command with the features of these views extracted, ready to train on.

    Args:
        command: flags of a command that trains.
        names: views; none are the default ones.
        experiment: name that records have of what the runs are done for.
        extra_corpora: additional corpora for pre-training only, words like `ravdess=DIR`.
        announce: returns the plan of the command, which is shown before anything slow.

    Raises:
        UsageError: flags that cannot be meant together.
        CorpusError: the corpus has no five folds.
    """
    import jax

    from pcl_jax.commands import terminal

    if command.processes:
        join_processes(command)
    if command.devices is not None and not 1 <= command.devices <= jax.device_count():
        raise UsageError(f"--devices {command.devices}: this machine has {jax.device_count()}")
    if command.precision != "float32" and jax.default_backend() == "cpu":
        raise UsageError(f"--precision {command.precision} is for accelerators: a CPU computes float32")
    check_views(command, names)
    corpus = read_usable(command)
    views = choose_views(command, names)
    if announce is not None:
        terminal.out.print(announce(corpus, views), markup=False, highlight=False)

    from pcl_jax.corpora import leakage
    from pcl_jax.data.load import ExtraCorpus
    from pcl_jax.runs import runner

    corpus, stores, skipped = _with_features(command, views, corpus)
    extra = {}
    for word in extra_corpora:
        added = _read_extra(word)
        if added.name in (corpus.name, *extra):
            raise UsageError(
                f"--extra-corpora {word}: there is a corpus {added.name} already; give each once"
            )
        _show_problems(command, added)
        added, added_stores, lacking = _with_features(command, views, added)
        leakage.check_apart(corpus, added)
        extra[added.name] = ExtraCorpus(added, added_stores)
        skipped |= {f"{added.name}: {id}": reason for id, reason in lacking.items()}
    return runner.open_runner(
        corpus,
        views,
        stores,
        command.settings(),
        runs=command.runs,
        seed=command.seed,
        devices=command.devices,
        experiment=experiment,
        memory_share=command.max_feature_memory,
        skipped=skipped,
        extra_corpora=extra,
    )


def _read_extra(word: str) -> "Corpus":
    from pcl_jax.corpora import read

    name, _, root = word.partition("=")
    try:
        return read(name, Path(root) if root else None)
    except CorpusError as error:
        raise UsageError(f"--extra-corpora {word}: {error}") from error


def _with_features(
    command: OnAudio, views: "Mapping[str, View]", corpus: "Corpus"
) -> "tuple[Corpus, Mapping[str, Store], dict[str, str]]":
    """Return the utterances of a corpus that have features, the stores, and why others have none.

    Raises:
        CorpusError: one recording belongs to two sessions, or to two speakers.
    """
    from pcl_jax.corpora import leakage

    leakage.check(corpus.utterances)
    extraction = extract_features(command, views, corpus)
    utterances = tuple(u for u in corpus.utterances if u.id not in extraction.skipped)
    skipped = {id: str(error) for id, error in extraction.skipped.items()}
    return replace(corpus, utterances=utterances), extraction.stores, skipped


def join_processes(command: OnDevices) -> None:
    """Become one of several processes that train as one; the first speaks for all.

    Raises:
        UsageError: flags that exclude each other, or a value that cannot be meant.
    """
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


def pretrain(runner: "Runner", spec: "Pretrain") -> Path:
    """Pre-train unless it is finished, with a progress bar; return the run's folder."""
    from pcl_jax.commands import terminal

    for line in runner.stopped_elsewhere(spec):
        terminal.out.print(line, markup=False, highlight=False)
    with terminal.bar(f"fold {spec.fold}, pre-train") as progress:
        return runner.pretrain(
            spec, lambda row, epochs: progress(row["epoch"], epochs, terminal.epoch_line(row))
        )


def run_plan(
    runner: "Runner",
    specs: "Iterable[Spec]",
    shard: "Shard" = (1, 1),
    finished: Callable[[str], None] = lambda _: None,
) -> "list[Row]":
    """Do the runs of a plan that are not finished, or a share of them, with progress bars.

    Args:
        runner: does them.
        specs: the plan.
        shard: (3, 8) does the third of eight shares.
        finished: called with the name of each run that is finished.

    Returns:
        The records of all runs of the plan that are finished now, but those of pre-trainings.
    """
    from pcl_jax.runs import plan

    specs = list(specs)
    groups = plan.groups(specs, shard)
    for group in groups:
        run_group(runner, group, group.title(groups), finished)
    return runner.ledger.finished_records(specs)


def run_group(runner: "Runner", group: "Group", title: str, finished: Callable[[str], None]) -> None:
    """Do the runs of one group that are not finished; measurements are for the experiment that made them."""
    from pcl_jax.commands import terminal
    from pcl_jax.runs.spec import Measure

    if group.pretraining:
        pretrain(runner, group.pretraining)
        finished(runner.ledger.name(group.pretraining))
    runs = [spec for spec in group.runs if not isinstance(spec, Measure)]
    with terminal.bar(title) as progress:
        for number, row in enumerate(runner.run_all(runs), start=1):
            progress(number, len(runs), terminal.task_line(row))
            finished(row["run"])


def parse_shard(text: str) -> "Shard":
    """Parse a share of the work: "3/8" -> (3, 8), "" -> (1, 1), which is all.

    Raises:
        UsageError: neither.
    """
    numbers = (text or "1/1").split("/")
    if (
        len(numbers) != 2
        or not all(map(str.isdecimal, numbers))
        or not 1 <= int(numbers[0]) <= int(numbers[1])
    ):
        raise UsageError(f"--shard {text} is no share of the work; 3/8 is the third of eight")
    return int(numbers[0]), int(numbers[1])
