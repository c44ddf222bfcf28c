"""Optimiser: the state that a training step changes, and its rule, Adam."""

from typing import NamedTuple

import jax
import numpy as np
import optax

from pcl_jax.arrays import Array, Variables


class TrainState(NamedTuple):
    """The state that a training step changes."""

    params: Variables
    """The parameters that train."""
    statistics: Variables
    """Running batch statistics of the projection heads; {} without heads."""
    moments: optax.OptState
    step: Array


ADAM = optax.scale_by_adam()
"""Adam without its learning rate, which the plateau rule sets for each epoch."""


def init_state(params: Variables, statistics: Variables) -> TrainState:
    """Return the state before the first step: `ADAM.init` is zero, and zeros need no program."""
    moments = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), jax.eval_shape(ADAM.init, params))
    return TrainState(params, statistics, moments, np.zeros((), np.int32))


def apply_gradient(
    state: TrainState, gradient: Variables, statistics: Variables, learning_rate: Array | float
) -> TrainState:
    """Take one Adam step."""
    updates, moments = ADAM.update(gradient, state.moments, state.params)
    params = jax.tree.map(lambda p, u: p - learning_rate * u, state.params, updates)
    return TrainState(params, statistics, moments, state.step + 1)


def count_parameters(params: Variables) -> int:
    """Return the number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
