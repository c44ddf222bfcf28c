"""The command `pcl`: flags in, calls, text out. No logic lives here.

Heavy imports wait until a command runs, so that `--help` and a wrong flag answer at once.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar, Union

import tyro
from tyro.conf import arg, subcommand

from pcl_jax import config

if TYPE_CHECKING:
    from pcl_jax.corpora import Corpus as CorpusRecord
    from pcl_jax.training.study import Study

Fold = Literal[1, 2, 3, 4, 5]
COMPARED = {0.05: 3, 1.0: 1}
"""Share of the labels -> repeats, in the table after `pcl pretrain --compare`."""


class UsageError(ValueError):
    """A command that cannot be meant: exit code 2."""


@dataclass(frozen=True)
class Common:
    """What every command needs to know."""

    corpus: Literal["demo", "iemocap", "emodb", "ravdess", "crema_d", "table"] = "demo"
    """demo (synthetic), a known corpus, or a table of your own files."""
    root: Path | None = None
    """Its folder, or the table's CSV or Parquet file. The demo is made in ./demo."""
    targets: tuple[str, ...] = ()
    """Classes, and what is merged into them: neutral angry sad happy=happy+excited."""
    features: Path = Path("features")
    """Folder of extracted features."""
    runs: Path = Path("runs")
    """Folder of runs and their records."""
    views: tuple[str, ...] = ("mel", "egemaps")
    """Representations of the audio."""
    seed: int = 0
    """Names every random draw."""
    workers: int | None = None
    """Processes that extract features; None: all CPUs."""
    on_bad_audio: Literal["error", "skip"] = "error"
    """Unusable audio: stop and list all of it, or list it and go on without."""
    devices: int | None = None
    """Use the first so many devices; None: all."""
    preset: Literal["sound", "authors"] = "sound"
    """Where the paper is silent: sound practice, or the authors' public code. Sets the defaults below."""
    normalise: Literal["fold", "speaker", "none"] = "fold"
    """Whose statistics scale mel and eGeMAPS: training utterances', each speaker's own, nobody's."""
    mel: config.Mel = field(default_factory=config.Mel)
    egemaps: config.Egemaps = field(default_factory=config.Egemaps)
    encoders: config.Encoders = field(default_factory=config.Encoders)
    debug: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class Corpus(Common):
    """Count utterances, emotions and hours, and list everything that is wrong with the folder."""

    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print JSON."""


@dataclass(frozen=True)
class Extract(Common):
    """Compute the features that are not there yet."""


@dataclass(frozen=True)
class Pretrain(Common):
    """Pairwise-CL on a fold's unlabelled training speech; goes on where it was stopped."""

    fold: Fold = 1
    """The test session; the one after it validates, the other three train."""
    compare: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Then fine-tune at 5 % and 100 % of the labels, beside supervised training, and print a table."""
    pretraining: Annotated[config.Pretraining, arg(name="")] = field(default_factory=config.Pretraining)
    finetuning: config.Finetuning = field(default_factory=config.Finetuning)


@dataclass(frozen=True)
class Finetune(Common):
    """Train a classifier on labelled utterances, from a pre-trained or a fresh encoder, and test it."""

    fold: Fold = 1
    """The test session."""
    view: str = "egemaps"
    """Whose encoder."""
    pretrained: Path | None = None
    """Folder of a pre-training of this fold."""
    supervised: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Start from a fresh encoder."""
    frozen: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Leave the encoder as it is."""
    fraction: float = 1.0
    """Share of the labelled training utterances of each class, above 0, at most 1."""
    repeat: int = 0
    """Names the labelled subset and the random start."""
    finetuning: Annotated[config.Finetuning, arg(name="")] = field(default_factory=config.Finetuning)


Command = Corpus | Extract | Pretrain | Finetune
C = TypeVar("C", bound=Common)


def default(command: type[C], arguments: Sequence[str]) -> C:
    """The command with the defaults of the preset that these words ask for."""
    words = " ".join(arguments).replace("--preset=", "--preset ").split()
    authors = ("--preset", "authors") in pairwise(words)
    chosen = config.authors() if authors else config.Settings()
    known = {f.name for f in fields(command)}
    values = {f.name: getattr(chosen, f.name) for f in fields(chosen) if f.name in known}
    return command(preset="authors" if authors else "sound", **values)


def parse(arguments: Sequence[str]) -> Command:
    """The command of these words; ends the process with code 2 and a message if there is none."""
    commands = {"corpus": Corpus, "extract": Extract, "pretrain": Pretrain, "finetune": Finetune}
    choices = Union[  # noqa: UP007 - made at run time
        tuple(
            Annotated[command, subcommand(name, default=default(command, arguments))]
            for name, command in commands.items()
        )
    ]
    return tyro.cli(  # pyright: ignore[reportCallIssue]
        choices,  # pyright: ignore[reportArgumentType]
        prog="pcl",
        description="Pairwise-CL: learn emotion from speech when labels are few.",
        args=list(arguments),
    )


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
            open_study(command)
        case Pretrain():
            pretrain(command)
        case Finetune():
            finetune(command)
    return 0


def read_corpus(command: Common) -> "CorpusRecord":
    from pcl_jax.corpora import parse_targets, read

    if command.corpus != "demo" and command.root is None:
        raise UsageError(f"--corpus {command.corpus} needs --root: where does it lie?")
    try:
        targets = parse_targets(command.targets) if command.targets else None
    except ValueError as error:
        raise UsageError(str(error)) from error
    return read(command.corpus, command.root, targets=targets)


def show_corpus(command: Corpus) -> int:
    from pcl_jax import terminal
    from pcl_jax.corpora.inspect import inspect, render

    inspection = inspect(read_corpus(command))
    if command.json:
        print(json.dumps(inspection.to_json(), indent=1))
    else:
        terminal.out.print(render(inspection))
    return 0 if inspection.usable else 1


def open_study(command: Common, experiment: str = "") -> "Study":
    """The corpus with its features extracted, ready to train on."""
    from pcl_jax import terminal
    from pcl_jax.training.study import open_study
    from pcl_jax.views.catalogue import catalogue

    known = catalogue(command.mel, command.egemaps)
    for view in command.views:
        if view not in known:
            raise UsageError(f"unknown view {view!r} in --views; choose from {', '.join(known)}")
    if len(set(command.views)) < len(command.views):
        raise UsageError(f"--views {' '.join(command.views)} names a view twice")
    settings = config.Settings(
        command.mel,
        command.egemaps,
        command.normalise,
        command.encoders,
        getattr(command, "pretraining", config.Pretraining()),
        getattr(command, "finetuning", config.Finetuning()),
    )
    corpus = read_corpus(command)
    if corpus.synthetic:
        terminal.out.print("The demo corpus is SYNTHETIC speech: nothing it shows holds for people.")
    with terminal.bar("extract") as progress:
        study = open_study(
            corpus,
            {view: known[view] for view in command.views},
            settings,
            features=command.features,
            runs=command.runs,
            seed=command.seed,
            workers=command.workers,
            on_bad_audio=command.on_bad_audio,
            devices=command.devices,
            experiment=experiment,
            progress=progress,
        )
    for id, why in study.skipped.items():
        terminal.err.print(f"skipped {id}: {why}")
    return study


def pretrain(command: Pretrain) -> None:
    from pcl_jax import terminal
    from pcl_jax.training import runs

    if len(command.views) < 2:
        raise UsageError(f"--views {' '.join(command.views)}: pre-training needs two views or more")
    study = open_study(command, "pretrain")
    with terminal.bar(f"fold {command.fold}") as progress:
        run = runs.pretrain(
            study,
            command.fold,
            lambda row, epochs: progress(row["epoch"], epochs, terminal.epoch_line(row)),
        )
    terminal.out.print(terminal.pretrained_line(study.done()[study.relative(run)]))
    if command.compare:
        from pcl_jax.training.compare import compare

        rows = []
        with terminal.bar("fine-tune") as progress:
            for done, total, row in compare(study, command.fold, run, COMPARED):
                rows.append(row)
                progress(done, total, terminal.task_line(row))
        terminal.out.print(terminal.comparison(rows, terminal.fold_title(study, command.fold)))
    terminal.out.print(f"run: {run}")
    flags = terminal.flags_of(command.corpus, command.root)
    terminal.out.print(
        f"next: pcl finetune {flags} --fold {command.fold} --view {command.views[-1]} "
        f"--pretrained {run} --fraction 0.1"
    )


def finetune(command: Finetune) -> None:
    from pcl_jax import terminal
    from pcl_jax.training.runs import evaluate
    from pcl_jax.training.study import Task

    if command.supervised == (command.pretrained is not None):
        raise UsageError("give either --pretrained RUN or --supervised")
    if command.supervised and command.frozen:
        raise UsageError("--frozen needs --pretrained: a fresh encoder that stays fresh learns nothing")
    if not 0 < command.fraction <= 1:
        raise UsageError(f"--fraction {command.fraction} is not a share of the labels; give 0 < P <= 1")
    if command.view not in command.views:
        raise UsageError(f"--view {command.view} is not among --views {' '.join(command.views)}")
    study = open_study(command, "finetune")
    task = Task(
        command.fold, command.view, command.pretrained, command.frozen, command.fraction, command.repeat
    )
    row = evaluate(study, task)
    terminal.out.print(terminal.comparison([row], terminal.fold_title(study, command.fold)))
    terminal.out.print(f"run: {command.runs / row['run']}")
