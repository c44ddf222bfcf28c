"""One epoch, of pre-training or of fine-tuning."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from pcl_jax.data.fold import Batch, FoldData
from pcl_jax.devices import fetch
from pcl_jax.training.optimiser import TrainState


class Epoch(NamedTuple):
    """What came of an epoch."""

    state: TrainState
    losses: Float[np.ndarray, " steps *r"]
    loss: Float[np.ndarray, " *r"]
    """The mean over utterances, of each run."""
    utterances: int
    waited_s: float
    """For the disk."""
    capacities: frozenset[Any]
    """Of its batches: each is a program."""


def epoch(
    step: Callable, state: TrainState, data: FoldData, batches: Iterable[Batch], *more: Any, **static: Any
) -> Epoch:
    """`step(state, features, rows, *more, **static)` on each batch, which gives the new state and the loss.

    The device is waited for at the end alone, unless the features come from disk.
    """
    losses, counts, waited_s, capacities = [], [], 0.0, set()
    for batch in batches:
        state, loss = step(state, batch.features, batch.rows, *more, **batch.static, **static)
        losses.append(data.throttle(loss))
        counts.append(batch.utterances)
        waited_s += batch.waited_s
        capacities.add(batch.static["capacity"])
    found = np.array(fetch(losses))
    mean = np.average(found, weights=counts, axis=0)
    return Epoch(state, found, mean, sum(counts), waited_s, frozenset(capacities))
