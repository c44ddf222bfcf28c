"""Views "wav2vec2", "hubert" and "whisper": waveform -> hidden states `[t, h, d]` of a frozen speech model.

Utterances of about one length share a batch. What is compiled is one program per length bucket, eight
buckets to an octave: little is computed on padding, and little is compiled.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float16, Int

from pcl_jax import audio
from pcl_jax.arrays import Array
from pcl_jax.config import SpeechModels
from pcl_jax.views.speech_models.checkpoint import DEFAULT_CHECKPOINTS, find_files, load
from pcl_jax.views.speech_models.model import (
    UNTRAINED,
    UNTRAINED_ARCHITECTURES,
    UNTRAINED_SEED,
    Family,
    SpeechModel,
    hidden_states,
    untrained,
)
from pcl_jax.views.view import Kind, View

BUCKETS_PER_OCTAVE = 8
SHORTEST_BUCKET = 8_000
"""Samples, 0.5 s."""
FLOAT16_MAX = float(np.finfo(np.float16).max)


class Batch(NamedTuple):
    """Utterances that the model sees at once."""

    rows: list[int]
    """Places in the list of waveforms."""
    waveforms: Float[np.ndarray, "n samples"]
    lengths: Int[np.ndarray, " n"]


@dataclass(frozen=True)
class SpeechModelView(View):
    """Hidden states of the clipped utterance's valid frames, float16; read by the wav2vec 2.0 encoder."""

    family: Family
    checkpoint: str = ""
    """Hub name, folder or file; `untrained` is a small model with random weights. Empty: the base model of
    the family, for wav2vec 2.0 `facebook/wav2vec2-base` [P]."""
    config: SpeechModels = field(default_factory=SpeechModels)

    def __post_init__(self) -> None:
        object.__setattr__(self, "checkpoint", self.checkpoint or DEFAULT_CHECKPOINTS[self.family])

    @property
    def name(self) -> str:
        return self.family

    @property
    def kind(self) -> Kind:
        return "states"

    @property
    def normalised(self) -> bool:
        return False

    @property
    def device_batch(self) -> int:
        """On a CPU, where utterances are computed one by one, as few as a kill may cost."""
        return 16 if jax.default_backend() == "cpu" else 512

    @property
    def longest_s(self) -> float:
        return self.config.clip.duration_s

    @property
    def title(self) -> str:
        """For tables and plots: no reader may take random weights for a trained model."""
        if self.checkpoint == UNTRAINED:
            return f"{self.name} (untrained stand-in)"
        path = Path(self.checkpoint)
        return f"{self.name} ({self.checkpoint if len(path.parts) <= 2 else path.name})"

    @property
    def frozen_parameters(self) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(self.model))

    @cached_property
    def model(self) -> SpeechModel:
        """Loaded when first asked for.

        Raises:
            FileNotFoundError, ValueError: as `load`; also if the checkpoint belongs to another view.
        """
        if self.checkpoint == UNTRAINED:
            return untrained(self.family, dtype=self.config.dtype)
        model = load(self.checkpoint, dtype=self.config.dtype)
        if model.family != self.family:
            raise ValueError(
                f"the checkpoint {self.checkpoint!r} is a {model.family} model: use it with the view "
                f"{model.family!r}, not {self.family!r}"
            )
        return model

    @cached_property
    def _weights(self) -> str:
        if self.checkpoint == UNTRAINED:
            architecture = UNTRAINED_ARCHITECTURES[self.family]
            return f"untrained stand-in, seed {UNTRAINED_SEED}, {architecture}"
        return find_files(self.checkpoint).digest()

    def describe(self) -> Mapping[str, Any]:
        c = self.config
        return {
            "kind": self.family,
            "audio": audio.PROCESSING,
            "dtype": "float16",
            "weights": self._weights,
            "precision": c.dtype,
            "normalise": c.normalise,
            "clip": asdict(c.clip),
        }

    def size(self, duration_s: float) -> int:
        a = self.model.architecture
        samples = int(min(duration_s, self.config.clip.duration_s) * audio.SAMPLING_RATE)
        return 2 * a.states * a.width * a.frames(max(samples, a.shortest))

    def features(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Per utterance float16 `[t, h, d]`, its valid frames.

        Hand over many at once (some hundreds on an accelerator): the more there are, the closer in
        length are those that share a batch.

        Raises:
            OverflowError: a state is beyond float16; names the layer.
            ValueError: an utterance is too short to make a frame.
        """
        found: list[np.ndarray | None] = [None] * len(waveforms)
        running: deque[tuple[Batch, Any]] = deque()
        masked = not self.config.clip.pad or self.model.architecture.asks_for_mask
        for batch in self._batches(waveforms, masked):
            # One batch ahead: the device computes it while the one before is copied out.
            running.append((batch, _stored(self.model, batch.waveforms, batch.lengths, masked)))
            if len(running) > 1:
                self._collect(*running.popleft(), found)
        while running:
            self._collect(*running.popleft(), found)
        return [x for x in found if x is not None]

    def _batches(self, waveforms: Sequence[np.ndarray], masked: bool) -> Iterator[Batch]:
        limit = round(self.config.clip.duration_s * audio.SAMPLING_RATE)
        clipped = [self._normalised(waveform[:limit]) for waveform in waveforms]
        for waveform in clipped:
            if len(waveform) < self.model.architecture.shortest:
                raise ValueError(
                    f"an utterance of {len(waveform)} samples makes no frame: "
                    f"{self.name} needs {self.model.architecture.shortest}"
                )
        budget_s = self.config.batch_s
        if budget_s is None:
            budget_s = 0.0 if jax.default_backend() == "cpu" else 240.0
        # Whisper computes its whole window whatever it is given: one bucket.
        one_size = not masked or self.family == "whisper"
        order = sorted(range(len(clipped)), key=lambda i: -len(clipped[i]))
        while order:
            samples = limit if one_size else min(bucket(len(clipped[order[0]])), limit)
            n = max(1, int(budget_s * audio.SAMPLING_RATE) // samples)
            rows, order = order[:n], order[n:]
            # A batch that is not full keeps its shape, or it would be compiled anew; its empty rows
            # are silence, which no other row notices.
            batch = np.zeros((n, samples), np.float32)
            lengths = np.full(n, samples, np.int32)
            for place, row in enumerate(rows):
                batch[place, : len(clipped[row])] = clipped[row]
                lengths[place] = len(clipped[row])
            yield Batch(rows, batch, lengths)

    def _normalised(self, waveform: np.ndarray) -> np.ndarray:
        if self.config.normalise == "never" or not self.model.normalise:
            return waveform
        return (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)

    def _collect(self, batch: Batch, stored: Any, found: list[np.ndarray | None]) -> None:
        states, peaks = (np.asarray(x) for x in stored)
        for state, peak in enumerate(peaks):
            if not peak <= FLOAT16_MAX:
                layer = "input of the transformer" if state == 0 else f"layer {state}"
                raise OverflowError(
                    f"{self.title}: hidden state {state} ({layer}) reaches {peak:.3g} (inf: or is not "
                    f"a number), float16 ends at {FLOAT16_MAX:g}: this checkpoint's features cannot be stored"
                )
        for place, row in enumerate(batch.rows):
            t = self.model.architecture.frames(int(batch.lengths[place]))
            found[row] = np.ascontiguousarray(states[place, :t])


def bucket(samples: int) -> int:
    """The least bucket that holds so many samples: eight to an octave, from 0.5 s.

    >>> [bucket(n) / 16_000 for n in (400, 8_001, 40_000, 40_001, 239_000)]
    [0.5, 0.5625, 2.5, 2.75, 15.0]
    """
    octave = SHORTEST_BUCKET
    while octave * 2 < samples:
        octave *= 2
    step = octave // BUCKETS_PER_OCTAVE
    return max(SHORTEST_BUCKET, -(-samples // step) * step)


@partial(jax.jit, static_argnames="masked")
def _stored(
    model: SpeechModel,
    waveforms: Float[Array, "n samples"],
    lengths: Int[Array, " n"],
    masked: bool,
) -> tuple[Float16[Array, "n t h d"], Float[Array, " h"]]:
    """What the store keeps, and the largest absolute value of each state before it became float16."""
    states = hidden_states(model, waveforms, lengths=lengths, masked=masked)
    # XLA's maximum on a CPU passes over what is not a number.
    size = jnp.where(jnp.isnan(states), jnp.inf, jnp.abs(states))
    return states.astype(jnp.float16), size.max(axis=(0, 1, 3)).astype(jnp.float32)
