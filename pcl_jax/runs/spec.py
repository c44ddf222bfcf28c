"""Specs: what is asked for, as plain values. A spec names its parents by value, never by a folder.

`Finetune(1, "mel", start=Pretrain(1, ("mel", "egemaps")))` is the whole question. What identifies its answer
is decided by `pcl_jax.runs.protocol`, where the answer lies by `pcl_jax.runs.ledger`. A spec keeps only those
settings that a run of its kind uses: two specs are equal exactly if they ask for the same.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pcl_jax.config import Settings

SETTINGS_USED = {
    "pretrain": ("normalise", "encoders", "pretraining", "precision"),
    "finetune": ("normalise", "encoders", "finetuning", "precision"),
    "probe-raw": ("normalise",),
    "probe": ("normalise", "encoders", "precision"),
    "fewlabels": (),
    "fewlabels-pretrained": ("normalise", "encoders", "precision"),
    "measure": ("normalise", "encoders", "finetuning", "precision"),
}
"""Fields of `Settings` that decide the outcome of each kind of run."""


def _used_settings(spec: "Spec") -> dict[str, Any]:
    kind = type(spec).__name__.lower()
    if isinstance(spec, Probe) and spec.method == "probe-raw":
        kind = spec.method
    if isinstance(spec, FewLabels) and spec.start:
        kind += "-pretrained"
    return {name: getattr(spec.settings, name) for name in SETTINGS_USED[kind]}


def _keep_settings(spec: "Spec") -> None:
    """Set the settings that a spec's kind of run does not use back to their defaults."""
    object.__setattr__(spec, "settings", Settings(**_used_settings(spec)))


@dataclass(frozen=True)
class Labels:
    """The labelled training utterances that a run sees: a subset of the fold's, nested across sizes."""

    fraction: float = 1.0
    """Share of the labelled training utterances of each class."""
    per_class: int | None = None
    """Number of labelled utterances of each class, instead of a fraction."""
    repeat: int = 0
    """Name of the random subset and of the random start of training."""


@dataclass(frozen=True)
class Pretrain:
    """Pre-training of all views on the training sessions of a fold."""

    fold: int
    """Test session."""
    views: tuple[str, ...]
    extra_corpora: tuple[str, ...] = ()
    """Names of additional corpora, see `protocol.Protocol.extra_corpora`."""
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        """Keep the settings that a run of this kind uses."""
        _keep_settings(self)


@dataclass(frozen=True)
class SavedEncoders:
    """Encoders of a pre-training that a user points at (`results.saved_encoders`)."""

    folder: Path
    identity: str
    """Identity of the pre-training, by the header of its file."""


@dataclass(frozen=True)
class Finetune:
    """Training of a classifier on one view's encoder, and its test."""

    fold: int
    """Test session."""
    view: str
    start: Pretrain | SavedEncoders | None = None
    """Source of the encoder; None is supervised training from scratch."""
    frozen: bool = False
    """Whether the encoder keeps its parameters."""
    labels: Labels = field(default_factory=Labels)
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        """Keep the settings that a run of this kind uses."""
        _keep_settings(self)

    @property
    def method(self) -> Literal["supervised", "pairwise-cl"]:
        """Method as records name it."""
        return "supervised" if self.start is None else "pairwise-cl"


@dataclass(frozen=True)
class Probe:
    """Logistic regression on what an encoder reads or gives, and its test."""

    fold: int
    """Test session."""
    view: str
    method: Literal["probe-raw", "probe-random", "probe-pretrained"]
    """Input: pooled features, the representation of a fresh encoder, or that of a pre-trained one."""
    start: Pretrain | SavedEncoders | None = None
    """Source of the encoder of "probe-pretrained"."""
    labels: Labels = field(default_factory=Labels)
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        """Keep the settings that a run of this kind uses."""
        _keep_settings(self)


@dataclass(frozen=True)
class FewLabels:
    """Classifier from few labels and the unlabelled rest of the training sessions, and its test.

    No other label is read, those of the validation session included: the method decides all within its own.
    """

    fold: int
    """Test session."""
    views: tuple[str, ...]
    method: str
    """One of `training.recipe.METHODS`."""
    labels: Labels = field(default_factory=Labels)
    start: Pretrain | None = None
    """Source of representations that stand beside the plain vectors of each view."""
    settings: Settings = field(default_factory=Settings)
    """Settings of the encoders of `start`: nothing else depends on any."""

    def __post_init__(self) -> None:
        """Keep the settings that a run of this kind uses."""
        _keep_settings(self)

    @property
    def view(self) -> str:
        """Names of the views, as records hold them."""
        return "+".join(self.views)

    @property
    def name(self) -> str:
        """Method as records name it: "co-training", "pretrained+co-training"."""
        return f"pretrained+{self.method}" if self.start else self.method


@dataclass(frozen=True)
class Measure:
    """Measurement by an experiment on the encoders of one fold (`Experiment.measure`)."""

    kind: str
    """Name of the experiment."""
    fold: int
    """Test session."""
    views: tuple[str, ...]
    """Views that are measured, in order."""
    start: Pretrain
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        """Keep the settings that a run of this kind uses."""
        _keep_settings(self)


Scored: TypeAlias = Finetune | Probe | FewLabels
"""Runs that predict the test session."""
Spec: TypeAlias = Pretrain | Scored | Measure


def views_of(spec: Spec) -> tuple[str, ...]:
    """Return the views whose features a run reads."""
    return (spec.view,) if isinstance(spec, Finetune | Probe) else spec.views


def settings_in_full(spec: Spec) -> dict[str, Any]:
    """Return the settings that a run of this kind uses, defaults included, as JSON types."""
    return {name: value for name, value in asdict(spec.settings).items() if name in _used_settings(spec)}
