"""Compiled steps of pre-training: train on a batch, evaluate one, diagnose a loss that is not finite."""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float, Int

from pcl_jax.arrays import Array, Variables
from pcl_jax.data.batches import gather
from pcl_jax.losses import retrieval_accuracy
from pcl_jax.models.networks import Features, PretrainingNetworks
from pcl_jax.training.objectives import Metrics, Objective
from pcl_jax.training.optimiser import TrainState, apply_gradient


class Forward(NamedTuple):
    """The by-products of a loss."""

    metrics: Metrics
    """Metrics of the objective, and `loss` itself."""
    statistics: Variables
    """The new batch statistics of the projection heads."""
    projections: Mapping[str, Float[Array, "n d"]]


def compute_loss(
    params: Variables,
    statistics: Variables,
    features: Features,
    labels: Int[Array, " n"] | None = None,
    mask: Bool[Array, " n"] | None = None,
    *,
    networks: PretrainingNetworks,
    objective: Objective,
    key: jax.Array | None = None,
) -> tuple[Float[Array, ""], Forward]:
    """Return the objective's loss of a batch, and what it came from.

    The negatives are those of the whole batch, however many devices share it. Rows where the mask is False
    are padding and count nowhere. With a key: training mode, whose dropout is drawn from it.
    """
    projections, statistics = networks.project(params, statistics, features, mask, key=key)
    loss, metrics = objective(projections, labels, mask)
    return loss, Forward({**metrics, "loss": loss}, statistics, projections)


def train_step(
    state: TrainState,
    features: Features,
    learning_rate: Array | float,
    key: jax.Array,
    labels: Int[Array, " n"] | None = None,
    mask: Bool[Array, " n"] | None = None,
    *,
    networks: PretrainingNetworks,
    objective: Objective,
) -> tuple[TrainState, Metrics]:
    """Take one Adam step on a batch, and return its metrics too.

    Dropout is drawn from `key` and the number of the step. Rows where the mask is False are padding.
    """
    (_, forward), gradient = jax.value_and_grad(compute_loss, has_aux=True)(
        state.params,
        state.statistics,
        features,
        labels,
        mask,
        networks=networks,
        objective=objective,
        key=jax.random.fold_in(key, state.step),
    )
    return apply_gradient(state, gradient, forward.statistics, learning_rate), forward.metrics


_STATIC = ("capacity", "fixed_lengths", "networks", "objective")


@partial(jax.jit, static_argnames=(*_STATIC, "padded"))
def train(
    state, packed, rows, labels, learning_rate, key, *, capacity, fixed_lengths, networks, objective, padded
):
    """Gather a batch and take one step on it.

    `padded` says whether any row is -1, which devices that do not divide the batch need. A batch without
    padding has no mask: the computation is the plain one.
    """
    features, labels, mask = _gather(packed, rows, labels, capacity, fixed_lengths)
    return train_step(
        state, features, learning_rate, key, labels, mask if padded else None,
        networks=networks, objective=objective,
    )  # fmt: skip


@partial(jax.jit, static_argnames=_STATIC)
def evaluate(state, packed, rows, labels, *, capacity, fixed_lengths, networks, objective):
    """Gather a batch; return its metrics without dropout, named as in the history of a run."""
    features, labels, mask = _gather(packed, rows, labels, capacity, fixed_lengths)
    _, forward = compute_loss(
        state.params, state.statistics, features, labels, mask, networks=networks, objective=objective
    )
    metrics = {f"validation_{name}": value for name, value in forward.metrics.items()}
    return {**metrics, "retrieval": mean_retrieval(forward.projections, mask)}


@partial(jax.jit, static_argnames=(*_STATIC, "padded"))
def diagnose(state, packed, rows, labels, key, *, capacity, fixed_lengths, networks, objective, padded):
    """Return for each view whether its projections are finite, and the norm of its networks' gradient."""
    features, labels, mask = _gather(packed, rows, labels, capacity, fixed_lengths)
    (_, forward), gradient = jax.value_and_grad(compute_loss, has_aux=True)(
        state.params, state.statistics, features, labels, mask if padded else None,
        networks=networks, objective=objective, key=jax.random.fold_in(key, state.step),
    )  # fmt: skip
    finite = {view: (jnp.isfinite(z).all(axis=-1) | ~mask).all() for view, z in forward.projections.items()}
    norms = {view: optax.tree.norm([part[view] for part in gradient.values()]) for view in networks.views}
    return finite, norms


def _gather(packed, rows, labels, capacity, fixed_lengths):
    """Return the features of a batch, its labels (-1 for padding) and its mask."""
    features = gather(packed, rows, capacity=dict(capacity), fixed_lengths=fixed_lengths)
    rows = rows.reshape(-1)
    mask = rows >= 0
    return features, jnp.where(mask, labels[rows], -1), mask


def mean_retrieval(
    projections: Mapping[str, Float[Array, "n d"]], mask: Bool[Array, " n"]
) -> Float[Array, ""]:
    """Return retrieval@1, averaged over the ordered pairs of different views; 1 / n at chance."""
    accuracy = retrieval_accuracy(projections, mask=mask)
    assert isinstance(accuracy, dict)  # a mapping gives a mapping
    return jnp.stack(list(accuracy.values())).mean()
