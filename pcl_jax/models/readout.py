"""Readout: multinomial logistic regression on a standardised vector, as parameters and one function."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from pcl_jax.arrays import Array


class Readout(NamedTuple):
    """The parameters of a readout."""

    mean: Float[Array, " d"]
    """Mean of each feature over the training utterances, labelled or not."""
    scale: Float[Array, " d"]
    """Their deviation times the square root of `d`: standardised vectors have squared norms of about 1."""
    weight: Float[Array, "d c"]
    bias: Float[Array, " c"]


def log_probabilities(readout: Readout, vectors: Float[Array, "n d"]) -> Float[Array, "n c"]:
    r"""Return log-probabilities, $\log \mathrm{softmax}((x - \mu) / \sigma \; W + b)$.

    Args:
        readout: The parameters.
        vectors: One row per utterance; a value that is not finite counts as the mean.
    """
    centred = jnp.asarray(vectors) - readout.mean
    standardised = jnp.where(jnp.isfinite(centred), centred / readout.scale, 0.0)
    return jax.nn.log_softmax(standardised @ readout.weight + readout.bias)
