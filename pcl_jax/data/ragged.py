"""Ragged batches: sequences of different lengths, end to end, without padding to the longest."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from pcl_jax.arrays import Array

ALIGNMENT = 8
"""Frames. Every utterance of a `Ragged` starts at a multiple of this, so that three poolings by two never mix
two utterances."""


class IndexedFrames(NamedTuple):
    """Frames by reference: frame `[g, t]` is `values[rows[g, t]]`.

    For frames that are costly to copy: a batch of hidden states has hundreds of megabytes, and an encoder
    needs only a weighted sum of them.
    """

    values: Float[Array, "_ h d"]
    rows: Int[Array, "g t"]


class Ragged(NamedTuple):
    """A batch of sequences of different lengths, laid end to end: nothing is computed for padding.

    Each group (one per device) holds its utterances one after the other, each in a slot. A slot has a
    multiple of `ALIGNMENT` frames and at least one more than its utterance. The frames after the utterance
    are zero, as the zero padding of a convolution would be. Padding (row -1) has no slot.
    """

    frames: Float[Array, "g t ..."] | IndexedFrames
    """Hidden states come as `IndexedFrames`; their frames after an utterance are arbitrary."""
    owner: Int[Array, "g t"]
    """The utterance, within the group, whose slot a frame lies in."""
    position: Int[Array, "g t"]
    """The index of a frame in its slot."""
    lengths: Int[Array, "g n"]
    """Frames of each utterance; 0 for padding."""

    @property
    def valid(self) -> Bool[Array, "g t"]:
        """Return whether each frame lies within its utterance."""
        return within(self.owner, self.position, self.lengths)


def within(
    owner: Int[Array, "g t"], position: Int[Array, "g t"], lengths: Int[Array, "g n"]
) -> Bool[Array, "g t"]:
    """Return whether the frame at each `position` of its slot lies within the slot's utterance."""
    return position < jnp.take_along_axis(jnp.asarray(lengths), jnp.asarray(owner), axis=1)


def slots(lengths: Int[Array, "g n"], capacity: int) -> tuple[Int[Array, "g t"], Int[Array, "g t"]]:
    """Return owner and position of each of `capacity` frames when utterances of these lengths are laid out.

    `capacity` must be at least `slot_frames(lengths).sum(axis=1).max()`. The remaining frames belong to the
    slot of the last utterance.
    """
    ends = jnp.cumsum(slot_frames(jnp.asarray(lengths)), axis=1)
    starts = jnp.pad(ends[:, :-1], ((0, 0), (1, 0)))
    frame = jnp.arange(capacity)
    owner = jax.vmap(lambda s: jnp.searchsorted(s, frame, side="right"))(starts) - 1
    return owner, frame - jnp.take_along_axis(starts, owner, axis=1)


def slot_frames(lengths: Int[Array, "*shape"]) -> Int[Array, "*shape"]:
    """Return the size of the slot for an utterance of each length: one frame more, rounded up to `ALIGNMENT`.

    Padding (length 0) has no slot. The smallest slot has three times `ALIGNMENT` frames: the spectral encoder
    counts utterances below 16 frames as 16.
    """
    return ((lengths.clip(2 * ALIGNMENT) | ALIGNMENT - 1) + 1) * (lengths > 0)


def pack(sequences: Sequence[Float[Array, "_ ..."]]) -> Ragged:
    """Lay sequences `[t_i, ...]` end to end in one group.

    >>> batch = pack([np.ones((3, 2), np.float32), np.ones((9, 2), np.float32)])
    >>> batch.frames.shape, batch.lengths.tolist(), int(batch.valid.sum())
    ((1, 48, 2), [[3, 9]], 12)
    """
    lengths = np.array([[len(s) for s in sequences]], np.int32)
    size = slot_frames(lengths)
    frames = np.zeros((1, int(size.sum()), *sequences[0].shape[1:]), np.float32)
    starts = np.cumsum(size) - size[0]
    for start, sequence in zip(starts, sequences, strict=True):
        frames[0, start : start + len(sequence)] = sequence
    # As `slots`, on the host: its programs would be compiled for each length.
    owner = np.repeat(np.arange(len(sequences), dtype=np.int32), size[0])[None]
    position = np.arange(frames.shape[1], dtype=np.int32)[None] - starts.astype(np.int32)[owner]
    return Ragged(*jax.device_put((frames, owner, position, lengths)))
