"""Batched inference over utterances, without dropout."""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int, Shaped

from pcl_jax.arrays import Array, Variables
from pcl_jax.data.batches import balanced_batches, evaluation_size, gather
from pcl_jax.data.fold import FoldData
from pcl_jax.devices import fetch, put, replicated
from pcl_jax.models.networks import ClassifierNetwork, encode

SHARED_ROWS = 512
"""Vectors up to which sessions of all sizes are padded to one: a program costs more than the padding."""


def represent(
    data: FoldData, model: ClassifierNetwork, params: Variables, rows: Int[np.ndarray, " n"], mesh: Mesh
) -> Float[np.ndarray, "n d"]:
    """Return the representations of these rows by an encoder with the given parameters, without dropout."""
    function = partial(_represent, put(params, replicated(mesh)), model=model)
    return map_utterances(data.select_view(model.view), rows, mesh, function)


def map_utterances(
    data: FoldData, rows: Int[np.ndarray, " n"], mesh: Mesh, function: Callable[..., Array]
) -> Shaped[np.ndarray, "n ..."]:
    """Apply a function to batches of these rows; return one result per row, in their order.

    Args:
        data: The features of one view.
        rows: The utterances.
        mesh: The devices that share each batch.
        function: `function(features, rows, **static)` -> `[batch, ...]`, compiled.
    """
    lengths = next(iter(data.lengths.values()), None)
    if lengths is None:
        places = np.full((1, max(len(rows), min(data.corpus.largest_session, SHARED_ROWS))), -1)
        places[0, : len(rows)] = np.arange(len(rows))
    else:
        places = balanced_batches(lengths[rows], evaluation_size(data.corpus.largest_session))
    placed = np.where(places >= 0, rows[places], -1).ravel()
    results = [
        (batch.rows, data.throttle(function(batch.features, batch.rows, **batch.static)))
        for batch in data.batches(placed, places.shape[1], mesh, drop_last=False, balanced=True)
    ]
    found = np.concatenate([result[batch_rows.ravel() >= 0] for batch_rows, result in fetch(results)])
    return found[np.argsort(places[places >= 0])]


@partial(jax.jit, static_argnames=("capacity", "fixed_lengths", "model"))
def _represent(params, packed, rows, *, capacity, fixed_lengths, model):
    features = gather(packed, rows, capacity=dict(capacity), fixed_lengths=fixed_lengths)[model.view]
    return encode(model.encoder, params, features)
