"""Compiled steps of fine-tuning: train each run on its batch, and compute its logits."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Int

from pcl_jax.arrays import Array, Variables
from pcl_jax.data.batches import gather
from pcl_jax.data.ragged import Ragged
from pcl_jax.models.networks import ClassifierNetwork, Scale, compute_logits
from pcl_jax.training.optimiser import TrainState, apply_gradient
from pcl_jax.training.parallel_runs import map_runs


def train_step(
    state: TrainState,
    frozen: Variables,
    features: Ragged | Float[Array, "n d"],
    labels: Int[Array, " n"],
    scale: Scale,
    learning_rate: Array | float,
    key: jax.Array,
    *,
    model: ClassifierNetwork,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Take one Adam step on the mean cross-entropy of the utterances with a label >= 0, with dropout.

    `state.params | frozen` are all the parameters; those of `frozen` stay as they are. Dropout is drawn from
    `key` and the number of the step.
    """

    def compute_loss(params):
        step_key = jax.random.fold_in(key, state.step)
        logits = compute_logits(model, params | frozen, scale, features, key=step_key)
        present = labels >= 0
        errors = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
        return jnp.where(present, errors, 0).sum() / jnp.maximum(present.sum(), 1)

    loss, gradient = jax.value_and_grad(compute_loss)(state.params)
    return apply_gradient(state, gradient, state.statistics, learning_rate), {"loss": loss}


_STATIC = ("capacity", "fixed_lengths", "model", "mesh")


@partial(jax.jit, static_argnames=_STATIC)
def train(
    states, packed, rows, scales, learning_rates, keys, frozen, labels,
    *, capacity, fixed_lengths, model, mesh,
):  # fmt: skip
    """Take one step of each run on its own batch."""

    def one(state, rows, scale, learning_rate, key, frozen, packed, labels):
        features = gather(packed, rows, capacity=dict(capacity), fixed_lengths=fixed_lengths)[model.view]
        rows = rows.reshape(-1)
        batch_labels = jnp.where(rows >= 0, labels[rows], -1)
        return train_step(state, frozen, features, batch_labels, scale, learning_rate, key, model=model)

    return map_runs(one, mesh, (states, rows, scales, learning_rates, keys), frozen, packed, labels)


@partial(jax.jit, static_argnames=_STATIC)
def predict(params, scales, packed, rows, *, capacity, fixed_lengths, model, mesh):
    """Return the logits `[n, r, c]` of one batch for all runs; a device gathers it once."""

    def one(params, scale, features):
        return compute_logits(model, params, scale, features)

    features = gather(packed, rows, capacity=dict(capacity), fixed_lengths=fixed_lengths)[model.view]
    sequential = jax.default_backend() == "cpu"  # the layers of one run stay in the cache
    return map_runs(one, mesh, (params, scales), features, sequential=sequential).swapaxes(0, 1)
