"""Flags of `pcl`: one dataclass for each command, and the parser of command lines."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar, Union

import tyro
from tyro.conf import Positional, arg, subcommand

from pcl_jax import config
from pcl_jax.corpora import READERS
from pcl_jax.views import catalogue
from pcl_jax.views.catalogue import ViewSettings

if TYPE_CHECKING:
    CorpusName: TypeAlias = str
else:
    CorpusName = Literal[tuple(READERS)]
Fold = Literal[1, 2, 3, 4, 5]
Views = Annotated[
    tuple[str, ...],
    arg(
        help="Representations of the audio: mel, egemaps, wav2vec2, hubert, whisper, or NAME=TABLE, vectors "
        "made elsewhere (.csv, .parquet). None given: mel, egemaps and the speech models'."
    ),
]
Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]


class FlagError(Exception):
    """A flag that cannot be meant. No ValueError: of those tyro makes boxes of several lines."""


def _require(condition: bool, name: str, value: object, wanted: str) -> None:
    try:
        config.require(condition, name, value, wanted)
    except ValueError as error:
        raise FlagError(str(error)) from None


@dataclass(frozen=True)
class Common:
    """Flags that all commands have."""

    corpus: CorpusName = "demo"
    """demo (synthetic), a known corpus, or a table of your own files."""
    root: Path | None = None
    """Its folder, or the table's CSV or Parquet file. The demo is made in ./demo."""
    targets: tuple[str, ...] = ()
    """Classes, and what is merged into them: neutral angry sad happy=happy+excited."""
    debug: Switch = False
    """Show the traceback of an error, and count the programs that jax compiles."""


@dataclass(frozen=True)
class OnAudio(Common):
    """Flags that all commands have which compute features of a corpus."""

    features: Path = Path("features")
    """Folder of extracted features."""
    speech_model: tuple[str, ...] = ()
    """Checkpoints of speech models (hub names, folders or files), each for the view of its kind: wav2vec2,
    hubert or whisper. None given: facebook/wav2vec2-base, but `tiny`, ours, for the demo."""
    seed: int = 0
    """Names every random draw."""
    workers: int | None = None
    """Processes that extract features; None: all CPUs."""
    on_bad_audio: Literal["error", "skip"] = "error"
    """Unusable audio: stop and list all of it, or list it and go on without."""
    view_settings: Annotated[ViewSettings, arg(name="")] = field(default_factory=ViewSettings)

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be meant."""
        _require(self.seed >= 0, "seed", self.seed, "0 or more")
        workers = self.workers
        _require(workers is None or workers > 0, "workers", workers, "1 or more, or none for all CPUs")


@dataclass(frozen=True)
class OnFeatures(OnAudio):
    """Flags that all commands have which read features."""

    runs: Path = Path("runs")
    """Folder of runs and their records."""
    preset: Literal["sound", "authors"] = "sound"
    """Choices on which the paper is silent: sound practice, or the authors' public code. Sets the defaults
    of the views, of normalise and of the training."""
    normalise: Literal["fold", "speaker", "none"] = "fold"
    """Statistics that scale mel and eGeMAPS: training utterances', each speaker's own, none."""
    encoders: config.Encoders = field(default_factory=config.Encoders)


@dataclass(frozen=True)
class OnDevices(OnFeatures):
    """Flags that all commands have which train."""

    devices: int | None = None
    """Use the first so many devices; None: all."""
    max_feature_memory: float = 0.5
    """Share of a device's memory that a fold's features may take; the rest is read from disk in every epoch.
    Changes no result."""
    precision: config.Precision = "float32"
    """Precision of matrix products in training, for accelerators: the others are faster, and part of a run's
    identity."""
    processes: str = ""
    """2/4@HOST:PORT: the second of four processes that train as one, over the devices of all; auto: as SLURM
    or Open MPI started them. The features must be there already (`pcl extract`)."""

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be meant."""
        super().__post_init__()
        share = self.max_feature_memory
        _require(0 <= share <= 1, "max-feature-memory", share, "a share of the memory, 0 to 1")

    def settings(self) -> config.Settings:
        """Return the settings of the runs that the command does."""
        return config.Settings(normalise=self.normalise, encoders=self.encoders, precision=self.precision)


@dataclass(frozen=True)
class Corpus(Common):
    """Count utterances, emotions and hours, and list everything that is wrong with the folder."""

    json: Switch = False
    """Print JSON."""


@dataclass(frozen=True)
class Extract(OnFeatures):
    """Compute the features that are not there yet."""

    views: Views = ()
    shard: str = ""
    """3/8 computes the third of eight shares, beside seven other processes or hosts on one file system."""


@dataclass(frozen=True)
class Features(OnFeatures):
    """List the extracted features, verify them, remove those no run needs, or take them to other tools."""

    action: Positional[Literal["list", "verify", "gc", "export"]] = "list"
    """verify: every checksum and, with --root, the audio; gc: what no run was trained on; export: the
    corpus's features of --views."""
    views: Views = ()
    repair: Switch = False
    """verify: remove damaged parts; extraction then computes their rows, and only them, anew."""
    yes: Switch = False
    """gc: remove without asking."""
    to: Path | None = None
    """export: NAME.csv or NAME.parquet (a vector per utterance), or a folder (.npy per utterance)."""


@dataclass(frozen=True)
class Learn(OnAudio):
    """Learn a classifier from a table with a few labels; say how good it is; write a model folder."""

    table: Positional[Path | None] = None
    """CSV or Parquet table: a row per clip, with or without an emotion. In place of --corpus and --root."""
    out: Path | None = None
    """Model folder to write; an older model there is replaced."""
    audio: Path | None = None
    """Folder of audio, with --labels in place of a table: files that have no row there are unlabelled."""
    labels: tuple[Path, ...] = ()
    """With a table: labelling tables of `pcl suggest` that are filled in. With --audio: one table with the
    columns file, speaker and emotion, whose files are relative to that folder."""
    json: Path | None = None
    """File for the numbers of the report, which also stand in the model folder."""
    most_unlabelled: int = 5000
    """Unlabelled clips to use at most; of more, these are drawn at random."""
    views: Views = ()


@dataclass(frozen=True)
class OnModel:
    """Flags that all commands have which use a model folder."""

    model: Positional[Path]
    """Model folder, as `pcl learn` writes it."""
    paths: Positional[tuple[Path, ...]]
    """Audio files, folders, or tables (.csv, .parquet) with a column file and perhaps start and end."""
    out: Path | None = None
    """Table to write, NAME.csv or NAME.parquet. None given: predict prints CSV."""
    window: float | None = None
    """Seconds of sliding windows, for long recordings. None: one prediction for each file or row."""
    hop: float | None = None
    """Seconds between the starts of two windows. None: the length of a window."""
    speech_model: str | None = None
    """Place of the speech model on this machine, if it has moved since the training."""
    workers: int | None = None
    """Processes that read audio; None: all CPUs."""
    debug: Switch = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class Predict(OnModel):
    """Predict the class of recordings: a probability for each class, with times."""

    abstain: float | None = None
    """Confidence, 0 to 1, below which the prediction is "unknown"."""
    speaker: str = ""
    """Column of the tables that says who speaks, for models that are normalised per speaker."""


@dataclass(frozen=True)
class Embed(OnModel):
    """Write the vectors that a model reads of recordings, for other tools."""


@dataclass(frozen=True)
class Pretrain(OnDevices):
    """Pairwise-CL on a fold's unlabelled training speech; goes on where it was stopped."""

    views: Views = ()
    fold: Fold = 1
    """The test session; the one after it validates, the other three train."""
    compare: Switch = False
    """Then fine-tune at 5 % of the labels, beside supervised training, and print a table."""
    pretraining: Annotated[config.Pretraining, arg(name="")] = field(default_factory=config.Pretraining)
    finetuning: config.Finetuning = field(default_factory=config.Finetuning)

    def settings(self) -> config.Settings:
        """Return the settings of pre-training and of the comparison after it."""
        return replace(super().settings(), pretraining=self.pretraining, finetuning=self.finetuning)


@dataclass(frozen=True)
class Finetune(OnDevices):
    """Train a classifier on labelled utterances, from a pre-trained or a fresh encoder, and test it."""

    fold: Fold = 1
    """The test session."""
    view: str = "egemaps"
    """View whose encoder is used."""
    pretrained: Path | None = None
    """Folder of a pre-training of this fold."""
    supervised: Switch = False
    """Start from a fresh encoder."""
    frozen: Switch = False
    """Leave the encoder as it is."""
    fraction: float = 1.0
    """Share of the labelled training utterances of each class, above 0, at most 1."""
    repeat: int = 0
    """Names the labelled subset and the random start."""
    finetuning: Annotated[config.Finetuning, arg(name="")] = field(default_factory=config.Finetuning)

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be meant."""
        super().__post_init__()
        _require(self.repeat >= 0, "repeat", self.repeat, "0 or more")

    def settings(self) -> config.Settings:
        """Return the settings of fine-tuning."""
        return replace(super().settings(), finetuning=self.finetuning)


@dataclass(frozen=True)
class Suggest(OnAudio):
    """Choose the unlabelled clips of a table that are worth labelling next; write a CSV to fill in."""

    table: Positional[Path | None] = None
    """CSV or Parquet table: a row per clip, with or without an emotion."""
    number: Annotated[int, arg(aliases=("-n",))] = 20
    """Clips to suggest."""
    out: Path = Path("to_label.csv")
    """CSV to write. One that holds labels is never overwritten."""
    labels: tuple[Path, ...] = ()
    """Labelling tables of earlier rounds. Their labels count; their clips are not suggested again."""
    views: Views = ()


@dataclass(frozen=True)
class Demo:
    """Show a page on this machine: predict recordings, and label the clips that `pcl suggest` chose."""

    model: Positional[Path | None] = None
    """Model folder, as `pcl learn` writes it. None given: the page only takes labels."""
    port: int = 0
    """TCP port on 127.0.0.1; 0 takes a free one."""
    label: Path | None = None
    """Labelling table to fill in, as `pcl suggest` writes it."""
    classes: tuple[str, ...] = ()
    """Labels to choose from, in addition to the classes of the model and the labels in the table."""
    window: float = 3.0
    """Seconds of the sliding windows of probabilities over time."""
    hop: float = 1.0
    """Seconds between the starts of two windows."""
    speech_model: str | None = None
    """Place of the speech model on this machine, if it has moved since the training."""
    debug: Switch = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class Export:
    """Write the readouts of a model as ONNX, for programs without Python or JAX, or as programs of JAX."""

    model: Positional[Path]
    """Model folder, as `pcl learn` writes it."""
    out: Path | None = None
    """Folder to write: a file for each view of the model. None given: ./onnx or ./jax."""
    format: Literal["onnx", "jax"] = "onnx"
    """onnx (needs the extra onnx), or jax: what jax.export.deserialize reads."""
    speech_model: str | None = None
    """Place of the speech model on this machine, if it has moved since the training."""
    debug: Switch = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class Experiment(OnDevices):
    """Flags that all experiments have (`python -m experiments.NAME`)."""

    views: Views = ()
    folds: tuple[Fold, ...] = (1, 2, 3, 4, 5)
    """Test sessions."""
    pretraining: config.Pretraining = field(default_factory=config.Pretraining)
    finetuning: config.Finetuning = field(default_factory=config.Finetuning)
    shard: str = ""
    """3/8 does the third of eight shares of the pre-trainings and what follows from them, beside other
    processes or hosts on one file system."""
    table_only: Switch = False
    """Run nothing; print the table of the finished runs."""

    def settings(self) -> config.Settings:
        """Return the settings of the runs, before an experiment varies one."""
        return replace(super().settings(), pretraining=self.pretraining, finetuning=self.finetuning)


Command = (
    Corpus | Extract | Features | Pretrain | Finetune | Learn | Predict | Embed | Suggest | Demo | Export
)
C = TypeVar("C", bound=Common)


def default(command: type[C], arguments: Sequence[str]) -> C:
    """Return a command with the defaults of the preset that these words ask for."""
    words = " ".join(arguments).replace("--preset=", "--preset ").split()
    authors = ("--preset", "authors") in pairwise(words)
    chosen = config.authors() if authors else config.Settings()
    known = {f.name for f in fields(command)}
    values = {f.name: getattr(chosen, f.name) for f in fields(chosen)}
    values["view_settings"] = catalogue.authors() if authors else ViewSettings()
    values["preset"] = "authors" if authors else "sound"
    return command(**{name: value for name, value in values.items() if name in known})


RENAMED = {"--resident": "--max-feature-memory", "--also": "--extra-corpora"}
"""Flags of version 0.1 -> their names now."""


def refuse_old_names(arguments: Sequence[str]) -> None:
    """End the process with code 2 and the new name if a flag has an old one."""
    for word in arguments:
        if new := RENAMED.get(word.split("=")[0]):
            print(f"pcl: {word.split('=')[0]} is called {new} now", file=sys.stderr)
            sys.exit(2)


def parse(arguments: Sequence[str]) -> Command:
    """Parse the words of a command line; end the process with code 2 and a message if they are no command."""
    refuse_old_names(arguments)
    commands = {
        "corpus": Corpus,
        "extract": Extract,
        "features": Features,
        "pretrain": Pretrain,
        "finetune": Finetune,
        "learn": Learn,
        "suggest": Suggest,
    }
    on_models = {"predict": Predict, "embed": Embed, "demo": Demo, "export": Export}
    choices = Union[  # noqa: UP007 - made at run time
        tuple(
            Annotated[command, subcommand(name, default=default(command, arguments))]
            for name, command in commands.items()
        )
        + tuple(Annotated[command, subcommand(name)] for name, command in on_models.items())
    ]
    return parse_as(
        choices,
        arguments,
        prog="pcl",
        description="Pairwise-CL: learn emotion from speech when labels are few.",
    )


def parse_as(kind: Any, arguments: Sequence[str], **options: Any) -> Any:
    """Parse words as flags of a kind; end the process with code 2 and one line where a number is refused.

    Args:
        kind: Dataclass of flags, or a union of commands.
        arguments: The words.
        options: As for `tyro.cli`.
    """
    try:
        return tyro.cli(kind, args=list(arguments), **options)
    except (ValueError, FlagError) as error:  # of the configuration; tyro itself catches some
        print(f"pcl: {error}", file=sys.stderr)
        sys.exit(2)


def words_to_repeat(command: OnDevices) -> list[str]:
    """Return the words of a command line that another command on the same corpus and features must repeat.

    >>> words_to_repeat(Pretrain(corpus="table", root=Path("my table.csv"), normalise="speaker", fold=3))
    ['--corpus', 'table', '--root', "'my table.csv'", '--normalise', 'speaker']
    """
    usual = default(OnDevices, ["--preset", command.preset])
    words = [] if command.preset == "sound" else ["--preset", command.preset]
    for item in fields(OnDevices):
        if item.name not in ("debug", "preset", "workers", "processes"):
            words += _words(item.name, getattr(command, item.name), getattr(usual, item.name))
    return words


def _words(name: str, value: Any, usual: Any) -> list[str]:
    """Return the words that change a flag, or the flags of a nested record, from its usual value."""
    if value == usual:
        return []
    if is_dataclass(value):
        nested = (
            _words(
                f"{name}.{item.name}".removeprefix("view_settings."),
                getattr(value, item.name),
                getattr(usual, item.name),
            )
            for item in fields(value)
        )
        return [word for words in nested for word in words]
    path, _, last = f"--{name.replace('_', '-')}".rpartition(".")
    if isinstance(value, bool):
        flag = last.removeprefix("--") if value else f"no-{last.removeprefix('--')}"
        return [f"{path}.{flag}" if path else f"--{flag}"]
    values = value if isinstance(value, tuple) else (value,)
    return [f"--{name.replace('_', '-')}", *(shlex.quote(str(part)) for part in values)]
