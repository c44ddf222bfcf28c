"""Batches of static shape, gathered on the device from the packed features of a fold.

The features of a fold are put on the device once, packed without padding (`Packed`). For a step only the row
numbers of its utterances cross to the device; `gather` makes the batch inside the compiled step. Rows of all
views, labels and ids share one numbering: row l is the same utterance in every view.
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

FixedLengths = tuple[tuple[str, int], ...]
"""View and frames, for each view whose encoder needs the same number of frames of every utterance."""


class Packed(NamedTuple):
    """The features of one view for a numbered list of utterances, without padding."""

    values: Float[Array, "rows ..."]
    """The frames of all utterances end to end, or one row per utterance."""
    starts: Int[Array, " n"]
    lengths: Int[Array, " n"]
    """Frames; all zero for a view that is one vector per utterance."""


def order(seed: int, epoch: int, count: int, *names: int) -> Int[np.ndarray, " _"]:
    """Return the permutation of `count` rows in an epoch: a function of its arguments alone.

    `names` tell runs of one seed apart: a fold and a repeat, say.
    """
    return seeded(seed, "order", *names, epoch).permutation(count)


def split(rows: Int[np.ndarray, "*r n"], batch: int, *, drop_last: bool) -> list[Int[np.ndarray, "*r b"]]:
    """Cut rows (of each run) into batches; drop the last one, or pad it with -1 (no utterance).

    Fewer rows than a batch are one batch of their number, rounded up as sizes are, if they are not dropped.
    """
    *runs, n = rows.shape
    batch = batch if drop_last else max(1, min(batch, int(round_up_sizes(np.array([float(n)]))[0])))
    batches = n // batch if drop_last else -(-n // batch)
    rows = _pad_rows(rows[..., : batches * batch], batches * batch)
    return list(np.moveaxis(rows.reshape(*runs, batches, batch), -2, 0))


def evaluation_size(largest: int) -> int:
    """Return the utterances of a batch in evaluation, so that the largest session fills whole batches.

    >>> evaluation_size(95) if jax.default_backend() == "cpu" else 48
    48
    """
    # The layers of 64 spectrograms stay in a CPU's cache.
    most = 64 if jax.default_backend() == "cpu" else 256
    return -(-largest // -(-largest // most))


def balanced_batches(lengths: Int[np.ndarray, " n"], size: int) -> Int[np.ndarray, "batches b"]:
    """Return places of utterances in batches of about equal duration, so that one program serves them all.

    Each batch has `size` places, whatever the number of utterances. Those that are left over hold -1, which
    costs nothing.

    >>> balanced_batches(np.arange(130), 64).shape
    (3, 64)
    """
    count = -(-len(lengths) // size)
    places = np.full(-(-len(lengths) // count) * count, -1)
    places[: len(lengths)] = np.argsort(-lengths, kind="stable")
    batches = places.reshape(-1, count).T
    # Shuffled: in order of length, the first of several devices would get all the long utterances.
    return _pad_rows(batches[:, seeded(0, "dealt").permutation(batches.shape[1])], size)


def _pad_rows(rows: Int[np.ndarray, "*r n"], count: int) -> Int[np.ndarray, "*r m"]:
    """Return `count` rows, -1 after the last."""
    padding = [(0, 0)] * (rows.ndim - 1) + [(0, count - rows.shape[-1])]
    return np.pad(rows, padding, constant_values=-1)


def gather(
    features: Mapping[str, Packed],
    rows: Int[Array, "g n"],
    *,
    capacity: Mapping[str, int],
    fixed_lengths: FixedLengths = (),
) -> dict[str, Ragged | Float[Array, "b d"]]:
    """Return the batch of these rows (-1: no utterance); for use inside a compiled function.

    Args:
        features: The packed features of each view, on the device.
        rows: One line per group (device).
        capacity: The frames per group of each time-resolved view, from `Layout.capacities`: static.
        fixed_lengths: Views of which every utterance has the given number of frames, zeros after its own.

    Raises:
        ValueError: A view of hidden states has a fixed length; their padding is not zero.
    """
    rows = jnp.asarray(rows)
    fixed, batch = dict(fixed_lengths), {}
    for view, packed in features.items():
        if view not in capacity:
            batch[view] = jnp.where((rows >= 0)[..., None], packed.values[rows], 0).reshape(rows.size, -1)
            continue
        frames = jnp.where(rows >= 0, packed.lengths[rows], 0)
        lengths = jnp.full_like(frames, fixed[view]) if view in fixed else frames
        owner, position = slots(lengths, capacity[view])
        index = jnp.take_along_axis(jnp.where(rows >= 0, packed.starts[rows], 0), owner, axis=1) + position
        inside = position < jnp.take_along_axis(frames, owner, axis=1)
        index = jnp.where(inside, index, 0)
        if packed.values.ndim == 3:  # hidden states
            if view in fixed:
                raise ValueError(f"hidden states ({view}) cannot be padded to a fixed length")
            batch[view] = Ragged(IndexedFrames(packed.values, index), owner, position, lengths)
            continue
        values = packed.values[index].astype(jnp.float32)
        values = jnp.where(inside.reshape(*inside.shape, *(1,) * (values.ndim - 2)), values, 0)
        batch[view] = Ragged(values, owner, position, lengths)
    return batch


def round_up_sizes(needed: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """Round sizes up to eighths of a power of two, so that many batches share few compiled programs.

    Some 5 % of the computation is for padding then.

    >>> round_up_sizes(np.array([5.0, 6.1, 116.0, 129.0])).tolist()
    [5.0, 6.5, 120.0, 144.0]
    """
    step = 2.0 ** (np.floor(np.log2(np.maximum(needed, 1e-9))) - 3)
    return np.ceil(needed / step) * step


FEW_BATCHES = 8
"""Batches below which the programs of a fold take longer to compile than the steps of some epochs."""


@dataclass(frozen=True)
class Layout:
    """The layout of batches on the devices: fixed for a run, so that few programs are compiled."""

    groups: int = 1
    """Devices that share a batch."""
    fixed_lengths: FixedLengths = ()

    def place(self, rows: Int[np.ndarray, "*r b"]) -> Int[np.ndarray, "*r g n"]:
        """Share out the rows of a batch (of each run) to the groups, with -1 where they do not divide."""
        size = -(-rows.shape[-1] // self.groups)
        return _pad_rows(rows, self.groups * size).reshape(*rows.shape[:-1], self.groups, size)

    def capacities(
        self,
        lengths: Mapping[str, Int[np.ndarray, " n"]],
        batches: Sequence[Int[np.ndarray, "*r b"]],
        *,
        balanced: bool = False,
    ) -> list[tuple[tuple[str, int], ...]]:
        """Return for each batch the frames per group of each time-resolved view, rounded up to a few sizes.

        All views of a batch are rounded together, in utterances of average length: their separate sizes would
        meet in many combinations, each a program. Views of a fixed length need no rounding.

        Fewer batches than `FEW_BATCHES` have one size as a rule: that of a full batch, with room for what
        chance adds to its duration unless they are balanced. A last batch of less than half has its own where
        an epoch has three batches or more.

        Args:
            lengths: The frames of each utterance in each time-resolved view.
            batches: The rows of each batch (of each run).
            balanced: The batches have about equal durations, as those of `balanced_batches`.

        Raises:
            ValueError: An utterance is longer than the fixed length of its view.
        """
        placed = [self.place(batch) for batch in batches]
        fixed = {view: frames for view, frames in self.fixed_lengths if view in lengths}
        capacities = {}
        for view, frames in fixed.items():
            if (longest := lengths[view].max(initial=0)) > frames:
                raise ValueError(f"an utterance has {longest} frames of {view}; its encoder reads {frames}")
            # Padding has as many frames: the encoder reshapes a group to utterances of one length.
            slot = int(slot_frames(np.array([frames]))[0])
            capacities[view] = [rows.shape[-1] * slot for rows in placed]
        ragged = {view: lengths[view] for view in lengths if view not in fixed}
        capacities |= _ragged_capacities(ragged, placed, balanced)
        return [tuple((view, capacities[view][i]) for view in lengths) for i in range(len(batches))]


def _ragged_capacities(
    lengths: Mapping[str, Int[np.ndarray, " n"]], placed: Sequence[Int[np.ndarray, "*r g b"]], balanced: bool
) -> dict[str, list[int]]:
    """Return the frames that the fullest group of each batch needs, rounded up for all views together."""
    if not lengths:
        return {}
    slot_sizes = {view: np.append(slot_frames(frames), 0) for view, frames in lengths.items()}  # -1: 0
    average = {view: sizes[:-1].mean() for view, sizes in slot_sizes.items()}
    utterances = [
        [sizes[rows].sum(axis=-1).max() / average[view] for rows in placed]
        for view, sizes in slot_sizes.items()
    ]
    needed = np.max(utterances, axis=0)
    if len(placed) < FEW_BATCHES:
        usual = np.array([rows.shape[-1] if balanced else (rows >= 0).sum(axis=-1).max() for rows in placed])
        own = (len(placed) > 2) & (2 * usual < usual.max())
        usual = np.where(own, usual, usual.max())
        # The sum of n lengths varies by sqrt(n) of their deviation, and that is half an utterance or less.
        needed = np.maximum(needed, usual if balanced else usual + np.sqrt(usual))
    rounded = round_up_sizes(needed)
    return {
        view: (np.ceil(rounded * average[view] / ALIGNMENT) * ALIGNMENT).astype(int).tolist()
        for view in lengths
    }
