"""order(seed, epoch); ragged features on the device; a batch of static shape gathered from them.

The features of a fold are put on the device once, packed without padding (`Packed`). What crosses
to the device for a step is a handful of row numbers; `gather` makes the batch inside the compiled
step. Rows of all views, labels and ids share one numbering, made from utterance ids: row l is the
same utterance in every view.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from pcl_jax.arrays import Array
from pcl_jax.data.ragged import ALIGNMENT, IndexedFrames, Ragged, slot_frames, slots
from pcl_jax.rng import seeded


class Packed(NamedTuple):
    """The features of one view for a numbered list of utterances, without padding."""

    values: Float[Array, "rows ..."]
    """Frames of all utterances end to end, or one row per utterance."""
    starts: Int[Array, " n"]
    lengths: Int[Array, " n"]
    """Frames; all zero for a view that is one vector per utterance."""


def order(seed: int, epoch: int, count: int, *names: int) -> Int[np.ndarray, " _"]:
    """The permutation in which `count` rows are seen in an epoch: a function of its arguments alone.

    `names` tell runs of one seed apart: a fold and a repeat, say.
    """
    return seeded(seed, "order", *names, epoch).permutation(count)


def split(rows: Int[np.ndarray, "*r n"], batch: int, *, drop_last: bool) -> list[Int[np.ndarray, "*r b"]]:
    """Cut rows (of each run) into batches; the last is dropped, or filled up with -1 (no utterance).

    Fewer rows than a batch are one batch of their own size, if they are not dropped.
    """
    *runs, n = rows.shape
    batch = batch if drop_last else max(1, min(batch, n))
    whole = n // batch if drop_last else -(-n // batch)
    rows = _filled(rows[..., : whole * batch], whole * batch)
    return list(np.moveaxis(rows.reshape(*runs, whole, batch), -2, 0))


def balanced_batches(lengths: Int[np.ndarray, " n"]) -> Int[np.ndarray, "batches b"]:
    """Places of these utterances in batches that are all about equally long, so that one program serves them;
    -1 where a batch has one less. No result depends on it.

    >>> balanced_batches(np.arange(130)).shape
    (3, 44)
    """
    # Of 64, the layers of a spectrogram stay in a CPU's cache.
    size = 64 if jax.default_backend() == "cpu" else 256
    count = -(-len(lengths) // size)
    places = np.full(-(-len(lengths) // count) * count, -1)
    places[: len(lengths)] = np.argsort(-lengths, kind="stable")
    batches = places.reshape(-1, count).T
    # Not the longest first: where devices share out a batch, the first would have them all.
    return batches[:, seeded(0, "dealt").permutation(batches.shape[1])]


def _filled(rows: Int[np.ndarray, "*r n"], count: int) -> Int[np.ndarray, "*r m"]:
    """`count` rows, -1 where there are no more."""
    pad = [(0, 0)] * (rows.ndim - 1) + [(0, count - rows.shape[-1])]
    return np.pad(rows, pad, constant_values=-1)


def gather(
    features: Mapping[str, Packed],
    rows: Int[Array, "g n"],
    *,
    capacity: Mapping[str, int],
    full_length: int | None = None,
) -> dict[str, Ragged | Float[Array, "b d"]]:
    """The batch of these rows (-1: no utterance), inside a compiled function.

    Args:
        features: per view, on the device.
        rows: one line per group (device).
        capacity: frames per group for each time-resolved view, from `capacities`: static.
        full_length: give every utterance this many frames, zeros after its own.
    """
    rows = jnp.asarray(rows)
    batch = {}
    for view, packed in features.items():
        if view not in capacity:
            batch[view] = jnp.where((rows >= 0)[..., None], packed.values[rows], 0).reshape(rows.size, -1)
            continue
        own = jnp.where(rows >= 0, packed.lengths[rows], 0)
        lengths = own if full_length is None else jnp.full_like(own, full_length)
        owner, position = slots(lengths, capacity[view])
        index = jnp.take_along_axis(jnp.where(rows >= 0, packed.starts[rows], 0), owner, axis=1) + position
        inside = position < jnp.take_along_axis(own, owner, axis=1)
        index = jnp.where(inside, index, 0)
        if packed.values.ndim == 3:  # hidden states
            batch[view] = Ragged(IndexedFrames(packed.values, index), owner, position, lengths)
            continue
        frames = packed.values[index].astype(jnp.float32)
        frames = jnp.where(inside.reshape(*inside.shape, *(1,) * (frames.ndim - 2)), frames, 0)
        batch[view] = Ragged(frames, owner, position, lengths)
    return batch


def round_up_sizes(needed: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """Rounded up to eighths of a power of two: a run compiles a few programs, not one per batch, and computes
    some 5 % for nothing.

    >>> round_up_sizes(np.array([5.0, 6.1, 116.0, 129.0])).tolist()
    [5.0, 6.5, 120.0, 144.0]
    """
    step = 2.0 ** (np.floor(np.log2(np.maximum(needed, 1e-9))) - 3)
    return np.ceil(needed / step) * step


@dataclass(frozen=True)
class Layout:
    """How batches lie on the devices: fixed for a run, so that few programs are compiled."""

    groups: int = 1
    full_length: int | None = None

    def place(self, rows: Int[np.ndarray, "*r b"]) -> Int[np.ndarray, "*r g n"]:
        """Rows of a batch (of each run), dealt to the groups; filled up with -1 where they do not divide."""
        each = -(-rows.shape[-1] // self.groups)
        return _filled(rows, self.groups * each).reshape(*rows.shape[:-1], self.groups, each)

    def capacities(
        self, lengths: Mapping[str, Int[np.ndarray, " n"]], batches: Sequence[Int[np.ndarray, "*r b"]]
    ) -> list[tuple[tuple[str, int], ...]]:
        """For each batch, the frames per group each time-resolved view needs, rounded up to a few sizes.

        All views of a batch are rounded together, in utterances of average length: sizes of their own would
        meet in many combinations, each a program.
        """
        needed, average = {}, {}
        nobody = self.full_length or 0  # an encoder that flattens wants as many frames of no utterance too
        for view, own in lengths.items():
            if self.full_length is not None:
                own = np.full_like(own, self.full_length)
            needed[view] = np.array(
                [
                    slot_frames(np.where(placed >= 0, own[placed], nobody)).sum(axis=-1).max()
                    for placed in map(self.place, batches)
                ]
            )
            average[view] = slot_frames(own).mean()
        if not needed:
            return [()] * len(batches)
        utterances = np.max([needed[view] / average[view] for view in needed], axis=0)
        if self.full_length is None:
            utterances = round_up_sizes(utterances)
        frames = {
            view: (np.ceil(utterances * average[view] / ALIGNMENT) * ALIGNMENT).astype(int) for view in needed
        }
        return [tuple((view, int(of[i])) for view, of in frames.items()) for i in range(len(batches))]
