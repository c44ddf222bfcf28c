"""Every number of a run, with its unit and its source.

Frozen dataclasses; the command line is generated from them. `[P]` the paper says so; `[A]` the
authors' public code; otherwise our choice, argued in PAPER.md under the same name.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Literal

SubsetName = Literal["all", "target", "out_of_distribution"]
"""Of a corpus: every utterance, those with a class, the others."""

Precision = Literal["float32", "tensorfloat32", "bfloat16"]
"""Of the factors of matrix products; sums are float32."""


@dataclass(frozen=True)
class Clip:
    """How much of an utterance the time-resolved views see. eGeMAPS always sees the bare utterance."""

    duration_s: float = 15.0
    """Longer utterances are cut to this [P, section 3.2]."""
    pad: bool = True
    """Zero-pad shorter ones to the same length before features are computed [P]. Only the frames
    that hold speech are stored; padding changes features near the end and, in wav2vec 2.0 base,
    through its group norm, everywhere."""


@dataclass(frozen=True)
class Mel:
    """Mel spectrogram [P: window, hop, bands, range; A: the rest]."""

    sampling_rate: int = 16_000
    window: int = 400
    """Samples: 25 ms [P]; also the FFT length. Periodic Hamming [A]."""
    hop: int = 160
    """Samples: 10 ms [P]."""
    bands: int = 64
    """[P]"""
    f_min_hz: float = 60.0
    """[P]"""
    f_max_hz: float = 7_800.0
    """[P]"""
    log: bool = True
    """Natural logarithm. Off in the authors' public code; see PAPER.md."""
    floor: float = 1e-6
    """Power below this is raised to it before the logarithm (about -60 dB re full scale)."""
    clip: Clip = field(default_factory=Clip)


@dataclass(frozen=True)
class Egemaps:
    """The 88 eGeMAPSv02 functionals of the bare, unpadded utterance."""

    sampling_rate: int = 16_000
    feature_set: Literal["eGeMAPSv02"] = "eGeMAPSv02"
    peak: float = 1 - 2**-15
    """Samples are clipped to +-peak: openSMILE's int16 cast turns +1.0 into -32768."""


@dataclass(frozen=True)
class SpeechModels:
    """How the hidden states of frozen speech models are made; which models is said by their checkpoints."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the model's products and residual stream; features are stored as float16 either way."""
    normalise: Literal["never", "checkpoint"] = "never"
    """`checkpoint`: utterances get zero mean and unit variance if the checkpoint's
    `preprocessor_config.json` asks for it. torchaudio's bundle, which the paper used, does not."""
    clip: Clip = field(default_factory=Clip)
    """`pad=False`, and models that mask their padding anyway, compute no padding but their bucket's."""
    batch_s: float | None = None
    """Seconds of audio, padding included, that a model gets at once: bounds memory (about 13 MB a second
    for wav2vec 2.0 base in float32), changes no value. None: single utterances on a CPU, whose cache is
    small; 240 s on an accelerator."""


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
    """Stalled epochs before that happens [A]; only read when the factor is below 1."""


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
    """All numbers that decide a run's outcome, apart from corpus, fold, views and seed."""

    mel: Mel = field(default_factory=Mel)
    egemaps: Egemaps = field(default_factory=Egemaps)
    speech: SpeechModels = field(default_factory=SpeechModels)
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

    >>> authors().mel.log, authors().normalise, authors().encoders.spectral_pool
    (False, 'none', 'flatten')
    """
    return Settings(
        mel=Mel(log=False),
        normalise="none",
        encoders=Encoders(spectral_pool="flatten", init="torch"),
        pretraining=Pretraining(plateau_factor=0.5),
    )


def digest(*parts: object) -> str:
    """Twelve hex digits that change when any field of any part does.

    Dataclasses, and anything JSON can hold.

    >>> digest(Mel()) == digest(Mel()), digest(Mel()) == digest(Mel(bands=80))
    (True, False)
    """

    def plain(value: object) -> object:
        if is_dataclass(value) and not isinstance(value, type):
            return {"": type(value).__name__, **asdict(value)}
        raise TypeError(f"{value!r} has no place in a digest; give a dataclass or JSON types")

    text = json.dumps(parts, default=plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
