"""Views "wav2vec2", "hubert", "whisper": waveform -> hidden states `[t, h, d]` of a frozen speech model."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pcl_jax import audio
from pcl_jax.views.clip import Clip
from pcl_jax.views.speech_models.families import DEFAULT_CHECKPOINTS, TINY, UNTRAINED, Family
from pcl_jax.views.versions import AUDIO_LIBRARIES, series
from pcl_jax.views.view import Kind, View

log = logging.getLogger(__name__)

VERSION = 1
"""Version of the algorithm: raised with every change that changes a value."""


@dataclass(frozen=True)
class SpeechModels:
    """Parameters of the hidden states of frozen speech models; `--speech-model` says which models."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the model's products and residual stream; features are stored as float16 either way."""
    normalise: Literal["torchaudio", "checkpoint", "never"] = "torchaudio"
    """Zero mean and unit variance of each utterance. `torchaudio`: as in its bundles, which the paper used:
    never for base models and Whisper; for models with layer-norm convolutions (large, XLS-R) as their
    `preprocessor_config.json` says. `checkpoint`: as that file says, for every model."""
    clip: Clip = field(default_factory=Clip)
    """`pad=False`, and models that mask their padding anyway, compute no padding but their bucket's."""
    batch_s: float | None = None
    """Seconds of audio, padding included, in one batch: bounds memory (about 13 MB a second for wav2vec 2.0
    base in float32), changes no value. None: single utterances on a CPU, whose cache is small; 240 s on an
    accelerator."""

    def __post_init__(self) -> None:
        """Refuse a batch without audio. Raises: ValueError."""
        if self.batch_s is not None and not 0 < self.batch_s < math.inf:
            raise ValueError(f"batch_s is {self.batch_s:g}: give seconds above 0")


@dataclass(frozen=True)
class SpeechModelView(View):
    """The hidden states of the valid frames of the clipped utterance, float16."""

    family: Family
    checkpoint: str = ""
    """Hub name, folder or file; `tiny` has heard synthetic voices alone, `untrained` has random weights.
    Empty: the base model of the family, for wav2vec 2.0 `facebook/wav2vec2-base` [P]."""
    config: SpeechModels = field(default_factory=SpeechModels)

    def __post_init__(self) -> None:
        """Fill in the default checkpoint of the family."""
        object.__setattr__(self, "checkpoint", self.checkpoint or DEFAULT_CHECKPOINTS[self.family])

    @property
    def name(self) -> str:
        """The family."""
        return self.family

    @property
    def kind(self) -> Kind:
        """The shape of the features: `[t, h, d]`."""
        return "states"

    @property
    def normalised(self) -> bool:
        """False: the norms of the model have done it."""
        return False

    @property
    def device_batch(self) -> int:
        """The number of utterances at once. On a CPU, which computes them one by one, a kill costs few."""
        import jax  # as everywhere in this module, so that `--help` does not wait for it

        return 16 if jax.default_backend() == "cpu" else 512

    @property
    def longest_s(self) -> float:
        """The duration of a full clip."""
        return self.config.clip.duration_s

    @property
    def title(self) -> str:
        """The name in tables and plots: no reader may take random weights, or ours, for a large model."""
        if self.checkpoint == TINY:
            return f"{self.name} (tiny, ours, synthetic voices)"
        if self.checkpoint == UNTRAINED:
            return f"{self.name} (untrained stand-in)"
        path = Path(self.checkpoint)
        return f"{self.name} ({self.checkpoint if len(path.parts) <= 2 else path.name})"

    @property
    def frozen_parameters(self) -> int:
        """The number of parameters of the speech model."""
        import jax

        return sum(leaf.size for leaf in jax.tree.leaves(self.model))

    @cached_property
    def model(self) -> Any:
        """The `SpeechModel`, loaded when first asked for.

        Raises:
            FileNotFoundError, ValueError: as `load`; also if the checkpoint belongs to another view.
        """
        from pcl_jax.views.speech_models import checkpoint, model

        if self.checkpoint == UNTRAINED:
            return model.untrained(self.family, dtype=self.config.dtype)
        loaded = checkpoint.load(self.checkpoint, dtype=self.config.dtype)
        if loaded.family != self.family:
            raise ValueError(
                f"the checkpoint {self.checkpoint!r} is a {loaded.family} model: use it with the view "
                f"{loaded.family!r}, not {self.family!r}"
            )
        return loaded

    @cached_property
    def _normalisation(self) -> bool | str:
        """Whether waveforms are normalised; a text where that is assumed, because a file is missing."""
        from pcl_jax.views.speech_models import checkpoint, files

        if self.checkpoint == UNTRAINED:
            return False
        found = files.find_files(self.checkpoint)
        architecture = checkpoint.read_architecture(found.config)[1]
        if not self._asks_checkpoint(architecture):
            return False
        wanted = checkpoint.asks_for_normalisation(found.preprocessor, architecture)
        if found.preprocessor is not None:
            return wanted
        assumed = f"{'' if wanted else 'not '}normalised: assumed, there is no {files.PREPROCESSOR}"
        log.warning("the waveforms for %s are %s", self.checkpoint, assumed)
        return assumed

    def _asks_checkpoint(self, architecture: Any) -> bool:
        """Return whether the checkpoint decides if waveforms are normalised; else they are not."""
        setting = self.config.normalise
        # Models with layer-norm convolutions are those that ask for a mask.
        return setting == "checkpoint" or (setting == "torchaudio" and architecture.asks_for_mask)

    @cached_property
    def _weights(self) -> str:
        from pcl_jax.views.speech_models import files, model

        if self.checkpoint == UNTRAINED:
            architecture = model.UNTRAINED_ARCHITECTURES[self.family]
            return f"untrained stand-in, seed {model.UNTRAINED_SEED}, {architecture}"
        return files.find_files(self.checkpoint).digest()

    def describe(self) -> Mapping[str, Any]:
        """Return everything that changes a value; the checkpoint by its content.

        Raises:
            FileNotFoundError: The checkpoint is not on this machine and cannot be fetched.
        """
        c = self.config
        return {
            "kind": self.family,
            "version": VERSION,
            "libraries": series(*AUDIO_LIBRARIES),
            "audio": audio.PROCESSING,
            "dtype": "float16",
            "weights": self._weights,
            "precision": c.dtype,
            "normalised": self._normalisation,
            "clip": asdict(c.clip),
        }

    def size(self, duration_s: float) -> int:
        """Estimate the bytes of an utterance."""
        a = self.model.architecture
        samples = int(min(duration_s, self.config.clip.duration_s) * audio.SAMPLING_RATE)
        return 2 * a.states * a.width * a.frames(max(samples, a.shortest))

    def features(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute float16 `[t, h, d]` of each waveform, its valid frames.

        Pass many at once (some hundreds on an accelerator): the more there are, the closer in length are
        those that share a batch.

        Raises:
            OverflowError: a state is beyond float16; names the layer.
            ValueError: an utterance is too short to make a frame.
        """
        from pcl_jax.views.speech_models.batched import float16_states

        clip = self.config.clip
        limit = round(clip.duration_s * audio.SAMPLING_RATE)
        clipped = [self._normalise(waveform[:limit]) for waveform in waveforms]
        return float16_states(
            self.model,
            clipped,
            clip_samples=limit,
            pad=clip.pad,
            batch_s=self.config.batch_s,
            title=self.title,
        )

    def _normalise(self, waveform: np.ndarray) -> np.ndarray:
        if not (self.model.normalise and self._asks_checkpoint(self.model.architecture)):
            return waveform
        return (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
