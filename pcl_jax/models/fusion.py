"""Late fusion: combining the posteriors of several views."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from pcl_jax.arrays import Array


def fuse(log_probabilities: Float[Array, "k n c"], weights: Float[Array, " k"]) -> Float[Array, "n c"]:
    r"""Return the normalised product of the views' posteriors, $p(c) \propto \prod_k p_k(c)^{w_k}$.

    Args:
        log_probabilities: Those of each view. -inf, for a class that a view has never seen, rules the class
            out unless the view's weight is zero.
        weights: Weight of each view, not all zero; divided by their sum here.

    Returns:
        Log-probabilities.

    Example:
        >>> import numpy as np
        >>> views = np.log([[[0.8, 0.2]], [[0.2, 0.8]]])
        >>> np.exp(fuse(views, np.array([1.0, 1.0]))).round(2).tolist()
        [[0.5, 0.5]]
    """
    shares = jnp.asarray(weights) / jnp.sum(weights)
    terms = jnp.where(shares[:, None, None] > 0, shares[:, None, None] * log_probabilities, 0.0)
    return jax.nn.log_softmax(terms.sum(axis=0))
