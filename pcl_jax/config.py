"""Every number of a run, with its unit and its source.

Frozen dataclasses; the command line is generated from them. Sources: `[P]` the paper; `[A]` the authors'
public code; otherwise our choice, argued in PAPER.md under the same name.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import cache
from math import inf
from typing import Any, Literal

TRAINING_VERSION = 2
"""Version of all algorithms that train or test; part of the identity of every run. Raise it with any change
of a default below, or of the code, that changes a result."""

FEW_LABELS_VERSION = 1
"""Version of the methods of `training.recipe`, which have no settings; part of the identity of their runs."""

SubsetName = Literal["all", "target", "out_of_distribution"]
"""Subset of a corpus: every utterance, those with a class, the others."""

Precision = Literal["float32", "tensorfloat32", "bfloat16"]
"""Precision of the factors of matrix products; sums are float32."""


def require(condition: bool, name: str, value: object, wanted: str) -> None:
    """Refuse a value that cannot be meant.

    Raises:
        ValueError: The condition does not hold. Names the value and what to give instead.
    """
    if not condition:
        raise ValueError(f"{name} is {value}; give {wanted}")


@dataclass(frozen=True)
class Encoders:
    """Choices for the encoders that the paper leaves open; sizes stand in `pcl_jax.models.encoders`."""

    dropout: float = 0.2
    """Dropout rate after each convolution [A]."""
    spectral_pool: Literal["mean", "flatten"] = "mean"
    """Pooling of spectrograms: the mean over valid frames -> 128, or all 186 pooled frames -> 23,808 as in
    the authors' code."""
    init: Literal["flax", "torch"] = "flax"
    """Initialisation. Flax: LeCun normal, zero bias. Torch: U(+-1/sqrt(fan_in)) for both."""

    def __post_init__(self) -> None:
        """Refuse a rate that is none."""
        require(0 <= self.dropout < 1, "dropout", self.dropout, "0 or more, less than 1")


@dataclass(frozen=True)
class Pretraining:
    """Pairwise-CL on the training sessions of a fold, labels unused [P, section 3.3]."""

    subset: SubsetName = "all"
    """Utterances of the training and the validation session: all (IEMOCAP-10 [P]), those of target emotions
    (IEMOCAP-4), or the rest; labels choose them, and are not used otherwise [P, Figure 4]."""
    utterances: int | None = None
    """Largest number of training utterances, chosen at random and nested across numbers: for a curve over the
    amount of unlabelled speech. None: all."""
    epochs: int = 100
    """Largest number of epochs [P]."""
    batch: int = 128
    """Utterances per view; the last, smaller batch of an epoch is dropped [P, A]."""
    learning_rate: float = 1e-3
    """Learning rate of Adam [P]."""
    objective: str = "pairwise"
    """Loss: pairwise, Eq. (3) [P]; simclr or sigmoid (`pcl_jax.training.objectives`)."""
    temperature: float = 0.5
    """Temperature tau of Eq. (1) [P, section 4.1]."""
    patience: int = 30
    """Epochs without a better validation loss before early stopping [P]."""
    plateau_factor: float = 1.0
    """Factor on the learning rate when the training loss stalls; 1 is never (the paper is silent), 0.5 in the
    authors' code."""
    plateau_patience: int = 10
    """The stalled epoch on which that happens; only read when the factor is below 1. torch's patience of 10,
    as in the authors' code, is the 11th epoch."""
    plateau_threshold: float = 0.0
    """An epoch stalls unless the loss falls by more than this share of the best; torch's default is 1e-4."""

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be meant."""
        require(self.utterances is None or self.utterances > 0, "utterances", self.utterances, "1 or more")
        require(self.batch > 1, "batch", self.batch, "2 or more: an utterance needs negatives")
        require(0 < self.temperature < inf, "temperature", self.temperature, "a number above 0")
        threshold = self.plateau_threshold
        require(0 <= threshold < 1, "plateau-threshold", threshold, "0 or more, less than 1")
        _check_schedule(self)


@dataclass(frozen=True)
class Finetuning:
    """Training of an encoder, fresh or pre-trained, and a linear classifier on labelled utterances."""

    epochs: int = 100
    """Largest number of epochs; the paper is silent."""
    batch: int = 64
    """Utterances; the last, smaller batch is kept. The paper is silent."""
    learning_rate: float = 1e-3
    """Learning rate of Adam [P]."""
    plateau_factor: float = 0.9
    """Factor on the learning rate when the validation UAR stalls [P]."""
    plateau_patience: int = 5
    """Epochs without a better validation UAR before that happens [P]: on the fifth, not torch's sixth."""
    patience: int = 50
    """Epochs without a better validation UAR before early stopping [A]."""
    frozen_dropout: bool = True
    """Whether the dropout of a frozen encoder stays active while the classifier trains [A]."""
    standardise: bool = False
    """Whether to scale the representation, by statistics of the fold's training utterances under the initial
    encoder, before the classifier."""

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be meant."""
        require(self.batch > 0, "batch", self.batch, "1 or more")
        _check_schedule(self)


def _check_schedule(options: Pretraining | Finetuning) -> None:
    """Refuse epochs, rates and patiences that cannot be meant."""
    for name in ("epochs", "patience", "plateau_patience"):
        value = getattr(options, name)
        require(value > 0, name.replace("_", "-"), value, "1 or more")
    require(0 < options.learning_rate < inf, "learning-rate", options.learning_rate, "a number above 0")
    factor = options.plateau_factor
    require(0 < factor <= 1, "plateau-factor", factor, "a number above 0, at most 1 (never)")


@dataclass(frozen=True)
class Settings:
    """All numbers that decide a run's outcome, apart from corpus, fold, seed and the parameters of views."""

    normalise: Literal["fold", "speaker", "none"] = "fold"
    """Statistics that scale mel and eGeMAPS: those of the fold's training utterances; those of each speaker's
    own unlabelled audio, test speakers included (transductive); none [A]."""
    encoders: Encoders = field(default_factory=Encoders)
    pretraining: Pretraining = field(default_factory=Pretraining)
    finetuning: Finetuning = field(default_factory=Finetuning)
    precision: Precision = "float32"
    """Precision of matrix products and convolutions while networks train and are tested, the loss excepted.
    By default an accelerator rounds float32 to TF32 or bfloat16 and does not say so."""


def authors() -> Settings:
    """Return the settings of a literal reading of the authors' public code, where the paper is silent.

    The parameters of the views are in `pcl_jax.views.catalogue.authors`.

    >>> authors().normalise, authors().encoders.spectral_pool
    ('none', 'flatten')
    """
    return Settings(
        normalise="none",
        encoders=Encoders(spectral_pool="flatten", init="torch"),
        pretraining=Pretraining(plateau_factor=0.5, plateau_patience=11, plateau_threshold=1e-4),
    )


def changed(settings: Any) -> dict[str, Any]:
    """Return the fields of a settings record that differ from their defaults, nested records likewise.

    Identities are made of this, so that a new field with its default changes none.

    >>> changed(Settings(pretraining=Pretraining(temperature=0.1)))
    {'pretraining': {'temperature': 0.1}}
    """
    defaults, found = _defaults(type(settings)), {}
    for item in fields(settings):
        value = getattr(settings, item.name)
        if is_dataclass(value):
            if nested := changed(value):
                found[item.name] = nested
        elif value != getattr(defaults, item.name):
            found[item.name] = value
    return found


@cache
def _defaults(record: type) -> Any:
    return record()


def digest(*parts: object) -> str:
    """Return twelve hex digits that change when any field of any part does.

    Parts are dataclasses, and anything that JSON can hold.

    >>> digest(Encoders()) == digest(Encoders()), digest(Encoders()) == digest(Encoders(dropout=0.1))
    (True, False)
    """
    text = json.dumps(parts, default=_as_json, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _as_json(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return {"": type(value).__name__, **asdict(value)}
    raise TypeError(f"{value!r} cannot be digested; give a dataclass or JSON types")
