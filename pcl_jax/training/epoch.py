"""One epoch, of pre-training or of fine-tuning."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from pcl_jax.data.fold import Batch, FoldData
from pcl_jax.devices import fetch
from pcl_jax.training.optimiser import TrainState


class Epoch(NamedTuple):
    """The outcome of an epoch."""

    state: TrainState
    losses: Float[np.ndarray, " steps *r"]
    """The loss of each step, of each run."""
    metrics: Mapping[str, Float[np.ndarray, " *r"]]
    """The mean over utterances of each metric, `loss` among them, of each run."""
    utterances: int
    waited_s: float
    """Seconds that the epoch waited for features from disk."""
    capacities: frozenset[Any]
    """The capacities of its batches: each is a program."""


def train_epoch(
    step: Callable,
    state: TrainState,
    data: FoldData,
    batches: Iterable[Batch],
    *arguments: Any,
    **static: Any,
) -> Epoch:
    """Train on each batch in turn.

    Nothing waits for the device before the end, unless features come from disk.

    Args:
        step: `step(state, features, rows, *arguments, **static)` -> new state and metrics, `loss` among them.
        state: The state before the first step.
        data: The fold of the batches.
        batches: Batches of `data`.
        arguments: Further arguments of the step.
        static: Further keyword arguments of the step.
    """
    metrics, counts, waited_s, capacities = [], [], 0.0, set()
    for batch in batches:
        state, found = step(state, batch.features, batch.rows, *arguments, **batch.static, **static)
        metrics.append(data.throttle(found))
        counts.append(batch.utterances)
        waited_s += batch.waited_s
        capacities.add(batch.static["capacity"])
    metrics = fetch(metrics)
    losses = np.array([step["loss"] for step in metrics])
    return Epoch(state, losses, mean_metrics(metrics, counts), sum(counts), waited_s, frozenset(capacities))


def mean_metrics(
    metrics: Sequence[Mapping[str, Any]], counts: Sequence[int]
) -> dict[str, Float[np.ndarray, " *r"]]:
    """Return the mean of each metric over batches that have so many utterances."""
    return {
        name: np.asarray(np.average([batch[name] for batch in metrics], weights=counts, axis=0))
        for name in metrics[0]
    }
