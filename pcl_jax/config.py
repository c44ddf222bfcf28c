"""Every number of a run, with its unit and its source.

Frozen dataclasses; the command line is generated from them. `[P]` the paper says so; `[A]` the
authors' public code; otherwise our choice, argued in PAPER.md under the same name.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal

TRAINING_VERSION = 1
"""Version of all algorithms that train or test; part of the identity of every run. Raise it with any change
of a default below, or of the code, that changes a result."""

SubsetName = Literal["all", "target", "out_of_distribution"]
"""Of a corpus: every utterance, those with a class, the others."""

Precision = Literal["float32", "tensorfloat32", "bfloat16"]
"""Of the factors of matrix products; sums are float32."""


@dataclass(frozen=True)
class Encoders:
    """The view-level encoders' open choices; their sizes stand in `pcl_jax.models.encoders`."""

    dropout: float = 0.2
    """After each convolution [A]."""
    spectral_pool: Literal["mean", "flatten"] = "mean"
    """Mean over valid frames -> 128, or all 186 pooled frames -> 23,808 as in the authors' code."""
    init: Literal["flax", "torch"] = "flax"
    """Flax: LeCun normal, zero bias. Torch: U(+-1/sqrt(fan_in)) for both."""


@dataclass(frozen=True)
class Pretraining:
    """Pairwise-CL on the training sessions of a fold, labels unused [P, section 3.3]."""

    subset: SubsetName = "all"
    """Which utterances of the training and the validation session: all (IEMOCAP-10 [P]), those of target
    emotions (IEMOCAP-4), or the rest; labels choose them, and are not used otherwise [P, Figure 4]."""

    utterances: int | None = None
    """At most so many training utterances, chosen at random, the fewer among the more: for a curve over the
    amount of unlabelled speech. None: all."""
    epochs: int = 100
    """At most [P]."""
    batch: int = 128
    """Utterances per view; the last, smaller batch of an epoch is dropped [P, A]."""
    learning_rate: float = 1e-3
    """Adam [P]."""
    objective: str = "pairwise"
    """The loss: pairwise, Eq. (3) [P]; simclr or sigmoid (`pcl_jax.training.objectives`)."""
    temperature: float = 0.5
    """tau of Eq. (1) [P, section 4.1]."""
    patience: int = 30
    """Epochs without a better validation loss before stopping [P]."""
    plateau_factor: float = 1.0
    """Multiplies the learning rate when the training loss stalls; 1 is never (the paper is silent),
    0.5 in the authors' code."""
    plateau_patience: int = 10
    """The stalled epoch on which that happens; only read when the factor is below 1. torch's patience of 10,
    as in the authors' code, is the 11th epoch."""
    plateau_threshold: float = 0.0
    """An epoch stalls unless the loss falls by more than this share of the best; torch's default is 1e-4."""


@dataclass(frozen=True)
class Finetuning:
    """An encoder, fresh or pre-trained, and a linear classifier on labelled utterances."""

    epochs: int = 100
    """At most; the paper is silent."""
    batch: int = 64
    """The last, smaller batch is kept; the paper is silent."""
    learning_rate: float = 1e-3
    """Adam [P]."""
    plateau_factor: float = 0.9
    """Multiplies the learning rate ... [P]"""
    plateau_patience: int = 5
    """... after this many epochs without a better validation UAR [P]: on the fifth, not torch's sixth."""
    patience: int = 50
    """Epochs without a better validation UAR before stopping [A]."""
    frozen_dropout: bool = True
    """A frozen encoder's dropout stays active while the classifier trains [A]."""
    standardise: bool = False
    """Scale the representation by training-fold statistics of the initial encoder before the classifier."""


@dataclass(frozen=True)
class Settings:
    """All numbers that decide a run's outcome, apart from corpus, fold, seed and the parameters of views."""

    normalise: Literal["fold", "speaker", "none"] = "fold"
    """Whose statistics scale mel and eGeMAPS: the fold's training utterances; each speaker's own
    unlabelled audio, test speakers included (transductive); nobody's [A]."""
    encoders: Encoders = field(default_factory=Encoders)
    pretraining: Pretraining = field(default_factory=Pretraining)
    finetuning: Finetuning = field(default_factory=Finetuning)
    precision: Precision = "float32"
    """Of matrix products and convolutions while networks train and are tested, the loss excepted. Left alone,
    an accelerator would round float32 to TF32 or bfloat16 without a word."""


def authors() -> Settings:
    """Every knob on which the paper is silent, set as a literal reading of the authors' public code.

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
    defaults, found = type(settings)(), {}
    for item in fields(settings):
        value = getattr(settings, item.name)
        if is_dataclass(value):
            if nested := changed(value):
                found[item.name] = nested
        elif value != getattr(defaults, item.name):
            found[item.name] = value
    return found


def digest(*parts: object) -> str:
    """Twelve hex digits that change when any field of any part does.

    Dataclasses, and anything JSON can hold.

    >>> digest(Encoders()) == digest(Encoders()), digest(Encoders()) == digest(Encoders(dropout=0.1))
    (True, False)
    """

    def plain(value: object) -> object:
        if is_dataclass(value) and not isinstance(value, type):
            return {"": type(value).__name__, **asdict(value)}
        raise TypeError(f"{value!r} has no place in a digest; give a dataclass or JSON types")

    text = json.dumps(parts, default=plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
