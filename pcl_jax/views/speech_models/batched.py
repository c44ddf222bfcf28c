"""Batched inference with a speech model: one compiled program per length bucket, eight buckets to an octave.

Utterances of about one length share a batch: little is computed on padding, and little is compiled.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float16, Int

from pcl_jax.arrays import Array
from pcl_jax.audio import SAMPLING_RATE
from pcl_jax.views.speech_models.model import SpeechModel, hidden_states

BUCKETS_PER_OCTAVE = 8
SMALL = 1_000_000
"""Parameters of a model below which programs take longer to compile than padding to compute: each octave is
one bucket then."""
SHORTEST_BUCKET = 8_000
"""Samples, 0.5 s."""
FLOAT16_MAX = float(np.finfo(np.float16).max)


class Batch(NamedTuple):
    """Utterances that the model sees at once."""

    rows: list[int]
    """Places in the list of waveforms."""
    waveforms: Float[np.ndarray, "n samples"]
    lengths: Int[np.ndarray, " n"]


def bucket(samples: int, per_octave: int = BUCKETS_PER_OCTAVE) -> int:
    """Return the length of the smallest bucket that holds this many samples: eight to an octave, from 0.5 s.

    >>> [bucket(n) / 16_000 for n in (400, 8_001, 40_000, 40_001, 239_000)]
    [0.5, 0.5625, 2.5, 2.75, 15.0]
    >>> [bucket(n, per_octave=1) / 16_000 for n in (400, 8_001, 40_000, 40_001, 239_000)]
    [0.5, 1.0, 4.0, 4.0, 16.0]
    """
    octave = SHORTEST_BUCKET
    while octave * 2 < samples:
        octave *= 2
    step = octave // per_octave
    return max(SHORTEST_BUCKET, -(-samples // step) * step)


def float16_states(
    model: SpeechModel,
    waveforms: Sequence[np.ndarray],
    *,
    clip_samples: int,
    pad: bool,
    batch_s: float | None,
    title: str,
) -> list[np.ndarray]:
    """Compute the hidden states of each utterance, float16 `[t, h, d]`, its valid frames.

    Args:
        model: The frozen model.
        waveforms: float32 `[samples]` each, at most `clip_samples` long.
        clip_samples: Length of a full clip.
        pad: Whether a model that does not mask its padding sees each utterance padded to a full clip.
        batch_s: Seconds of audio, padding included, in one batch; None: single utterances on a CPU, 240 s on
            an accelerator.
        title: Name of the model in errors.

    Raises:
        OverflowError: a state is beyond float16; names the layer.
        ValueError: an utterance is too short to make a frame.
    """
    for waveform in waveforms:
        if len(waveform) < model.architecture.shortest:
            raise ValueError(
                f"an utterance of {len(waveform)} samples makes no frame: "
                f"{model.family} needs {model.architecture.shortest}"
            )
    found: list[np.ndarray | None] = [None] * len(waveforms)
    running: deque[tuple[Batch, Any]] = deque()
    masked = not pad or model.architecture.asks_for_mask
    # Whisper computes its whole window for every length: one bucket.
    one_bucket = not masked or model.family == "whisper"
    small = sum(leaf.size for leaf in jax.tree.leaves(model.parameters)) < SMALL
    per_octave = None if one_bucket else 1 if small else BUCKETS_PER_OCTAVE
    for batch in _batches(waveforms, clip_samples, per_octave, batch_s):
        # One batch ahead: the device computes it while the one before is copied out.
        running.append((batch, _compute(model, batch.waveforms, batch.lengths, masked)))
        if len(running) > 1:
            _collect(model, *running.popleft(), found, title)
    while running:
        _collect(model, *running.popleft(), found, title)
    return [x for x in found if x is not None]


def _batches(
    waveforms: Sequence[np.ndarray], clip_samples: int, per_octave: int | None, batch_s: float | None
) -> Iterator[Batch]:
    if batch_s is None:
        batch_s = 0.0 if jax.default_backend() == "cpu" else 240.0
    order = sorted(range(len(waveforms)), key=lambda i: -len(waveforms[i]))
    while order:
        longest = clip_samples if per_octave is None else bucket(len(waveforms[order[0]]), per_octave)
        samples = min(longest, clip_samples)
        n = max(1, int(batch_s * SAMPLING_RATE) // samples)
        rows, order = order[:n], order[n:]
        # A batch that is not full keeps its shape, or it would be compiled again; its empty rows
        # are silence, which no other row notices.
        batch = np.zeros((n, samples), np.float32)
        lengths = np.full(n, samples, np.int32)
        for place, row in enumerate(rows):
            batch[place, : len(waveforms[row])] = waveforms[row]
            lengths[place] = len(waveforms[row])
        yield Batch(rows, batch, lengths)


def _collect(
    model: SpeechModel, batch: Batch, computed: Any, found: list[np.ndarray | None], title: str
) -> None:
    """Copy the valid frames of a batch to their utterances' places in `found`."""
    states, peaks = (np.asarray(x) for x in computed)
    for state, peak in enumerate(peaks):
        if not peak <= FLOAT16_MAX:
            layer = "input of the transformer" if state == 0 else f"layer {state}"
            raise OverflowError(
                f"{title}: hidden state {state} ({layer}) reaches {peak:.3g} (inf: or is not a number), "
                f"float16 ends at {FLOAT16_MAX:g}: the features of this checkpoint cannot be stored"
            )
    for place, row in enumerate(batch.rows):
        t = model.architecture.frames(int(batch.lengths[place]))
        found[row] = np.ascontiguousarray(states[place, :t])


@partial(jax.jit, static_argnames="masked")
def _compute(
    model: SpeechModel,
    waveforms: Float[Array, "n samples"],
    lengths: Int[Array, " n"],
    masked: bool,
) -> tuple[Float16[Array, "n t h d"], Float[Array, " h"]]:
    """Return the states that are stored, and the largest absolute value of each before it became float16."""
    states = hidden_states(model, waveforms, lengths=lengths, masked=masked)
    # XLA's maximum on a CPU passes over what is not a number.
    size = jnp.where(jnp.isnan(states), jnp.inf, jnp.abs(states))
    return states.astype(jnp.float16), size.max(axis=(0, 1, 3)).astype(jnp.float32)
