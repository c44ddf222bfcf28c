"""Cosine similarities that survive zero vectors, low precision and absent rows.

Axes: `k` views, `n` utterances, `d` features, and `p` for the K(K-1)/2 unordered pairs of views.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Num

Views = Mapping[str, Num[ArrayLike, "n d"]] | Num[ArrayLike, "k n d"]
Mask = Bool[ArrayLike, " n"] | Bool[ArrayLike, "k n"]


def stack(views: Views) -> Float[Array, "k n d"]:
    """Stacks the views and brings them to at least float32, in which everything is then accumulated.

    A mapping is stacked in **sorted order of its names**: `jax.jit` rebuilds dictionaries in that order, so
    insertion order would mean one thing outside of a jitted function and another within.
    """
    if isinstance(views, Mapping):
        shapes = {name: jnp.shape(views[name]) for name in sorted(views)}
        if len(set(shapes.values())) > 1:
            raise ValueError(
                f"all views need one shape [n, d], got {shapes}; project them to one width first"
            )
        stacked = jnp.stack([jnp.asarray(views[name]) for name in shapes]) if shapes else jnp.zeros((0, 0, 0))
    else:
        stacked = jnp.asarray(views)
    if stacked.ndim != 3:
        raise ValueError(
            f"views must be a mapping of arrays [n, d] or one array [k, n, d], got {stacked.shape}"
        )
    return stacked.astype(jnp.promote_types(stacked.dtype, jnp.float32))


def presence(mask: Mask | None, k: int, n: int) -> Bool[Array, "k n"] | None:
    """Spreads a mask `[n]` or `[k, n]` over the views; None stays None, which costs nothing."""
    if mask is None:
        return None
    mask = jnp.asarray(mask, bool)
    if mask.shape not in ((n,), (k, n)):
        raise ValueError(f"mask must have shape [n] = {(n,)} or [k, n] = {(k, n)}, got {mask.shape}")
    return jnp.broadcast_to(mask, (k, n))


def unit(
    rows: Float[Array, "*rows d"], present: Bool[Array, "*rows"] | None = None
) -> Float[Array, "*rows d"]:
    """Scales each row to length one; zero rows and absent rows become zero, with zero gradient.

    A zero row thus has similarity 0 to everything. torch's `normalize` gives it a gradient of 1e12 instead,
    and the plain formula gives NaN.
    """
    if present is not None:
        # Whatever an absent row holds, NaN included, must reach neither the value nor the gradient.
        rows = jnp.where(present[..., None], rows, 0)
    # Dividing by the largest entry first keeps the squares from over- and underflowing. It needs no
    # gradient of its own, because the result does not depend on the length of the row.
    largest = lax.stop_gradient(jnp.max(jnp.abs(rows), axis=-1, keepdims=True, initial=0))
    # In rows shorter than this (1e-19 in float32) the gradient, which is as 1 / length, is of no use.
    is_zero = largest < jnp.finfo(rows.dtype).tiny ** 0.5
    # 0 * rows and not 0: XLA's maximum of a long row passes NaN over on a CPU, and a row that is not finite
    # must not pass for a zero one: a diverged run would show the loss of chance.
    scaled = jnp.where(is_zero, 0 * rows, rows / jnp.where(is_zero, 1, largest))
    squares = jnp.sum(scaled * scaled, axis=-1, keepdims=True)
    return scaled * lax.rsqrt(jnp.where(is_zero, 1, squares))


def pairs(k: int) -> tuple[Int[Array, " p"], Int[Array, " p"]]:
    """The unordered pairs i < j of k views."""
    both = [(i, j) for i in range(k) for j in range(i + 1, k)]
    return jnp.array([i for i, _ in both]), jnp.array([j for _, j in both])


def similarities(anchors: Float[Array, "k n d"], candidates: Float[Array, "k m d"]) -> Float[Array, "p n m"]:
    """Cosines of unit rows, one matrix for each unordered pair of views.

    One matrix serves both directions: i -> j along its rows, j -> i along its columns. `HIGHEST`, because an
    error here is divided by the temperature: the TF32 and bfloat16 multiplications that accelerators take by
    default for float32 err by 1e-3, which at a temperature of 0.01 is a tenth of a nat.
    """
    i, j = pairs(anchors.shape[0])
    return jnp.einsum("pnd,pmd->pnm", anchors[i], candidates[j], precision=lax.Precision.HIGHEST)


def positives(views: Float[Array, "k n d"]) -> Float[Array, "p n"]:
    """Cosines of an utterance's own two rows: the diagonals of `similarities(views, views)`."""
    i, j = pairs(views.shape[0])
    # All k^2 products, because taking the rows by i and j first would copy them, p times [n, d].
    return jnp.einsum("ind,jnd->ijn", views, views, precision=lax.Precision.HIGHEST)[i, j]


def logsumexp(
    logits: Float[Array, "..."], axis: int, where: Bool[Array, "..."] | None = None
) -> Float[Array, "..."]:
    """log sum exp; over nothing at all a huge negative number, so that zero times it is zero, not NaN."""
    if where is not None:
        logits = jnp.where(where, logits, nothing(logits))
    return jax.nn.logsumexp(logits, axis=axis)


def nothing(like: Float[Array, "..."]) -> float:
    """The log of (almost) nothing; half the range, so that differences of two of them stay finite."""
    return float(jnp.finfo(like.dtype).min) / 2
