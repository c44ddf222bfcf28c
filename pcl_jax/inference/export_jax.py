"""Readout as a serialised program of `jax.export`, for programs with JAX and without pcl_jax."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from pcl_jax.audio import SAMPLING_RATE
from pcl_jax.models.readout import Readout, log_probabilities
from pcl_jax.views.view import Kind, View

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
"""Platforms that a program runs on."""
_LOCATIONS = "jax_traceback_in_locations_limit"


def readout_program(readout: Readout, kind: Kind, sizes: Sequence[int] = ()) -> bytes:
    """Return the program of a readout, which `jax.export.deserialize(content).call(features)` runs.

    Input `features`, float32: `[batch, d]` for a view of vectors, `[batch, time, m]` for frames,
    `[batch, time, h, d]` for hidden states. Batch and time are free; all utterances of a batch have the same
    number of frames, since padding would count. The output is a dict: `hidden_states`, the vector
    `[batch, d]`, and `logits`, log-probabilities `[batch, c]`.

    Args:
        readout: Its parameters.
        kind: Shape of the view's features.
        sizes: Number and width of the hidden states, which the readout does not tell; else empty.
    """
    size = len(readout.mean)
    if kind != "states":
        sizes = [size] if kind == "vector" else [size // 2]
    free = ["batch"] if kind == "vector" else ["batch", "time"]
    shape = export.symbolic_shape(", ".join([*free, *map(str, sizes)]))

    def program(features: Any) -> dict[str, Any]:
        vectors = _pool(features, kind)
        return {"hidden_states": vectors, "logits": log_probabilities(readout, vectors)}

    features = jax.ShapeDtypeStruct(shape, jnp.float32)
    with _without_locations():
        return bytes(export.export(jax.jit(program), platforms=PLATFORMS)(features).serialize())


@contextmanager
def _without_locations() -> Iterator[None]:
    """Leave names of files on this machine out of programs, which else differ with their caller's line."""
    limit = jax.config.values[_LOCATIONS]
    jax.config.update(_LOCATIONS, 0)
    try:
        yield
    finally:
        jax.config.update(_LOCATIONS, limit)


def state_sizes(view: View) -> tuple[int, ...]:
    """Return number and width of a view's hidden states, from a second of noise; empty for other kinds."""
    if view.kind != "states":
        return ()
    noise = np.random.default_rng(0).normal(scale=0.1, size=SAMPLING_RATE).astype(np.float32)
    return view.features([noise])[0].shape[1:]


def _pool(features: Any, kind: Kind) -> Any:
    """Return what `pcl_jax.data.vectors.pool` does, for a batch, in float32."""
    if kind == "vector":
        return features
    if kind == "states":
        states = features.shape[2]
        features = features[:, :, states // 3 : states - states // 3]
    frames = features.reshape(*features.shape[:2], -1)
    return jnp.concatenate([frames.mean(axis=1), frames.std(axis=1)], axis=1)
