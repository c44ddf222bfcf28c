"""Cosine similarities that survive zero vectors, low precision and absent rows.

Axes: `k` views, `n` utterances, `d` features, and `p` for the k(k-1)/2 unordered pairs of views.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Num

NamedViews = Mapping[str, Num[ArrayLike, "n d"]]
NumberedViews = Sequence[Num[ArrayLike, "n d"]] | Num[ArrayLike, "k n d"]
Views = NamedViews | NumberedViews
Mask = Bool[ArrayLike, " n"] | Bool[ArrayLike, "k n"]


def stack(views: Views) -> Float[Array, "k n d"]:
    """Stack the views into one array of at least float32, the precision of all sums that follow.

    A mapping is stacked in **sorted order of its names**. `jax.jit` rebuilds dictionaries in that order, so
    insertion order would mean one thing outside a jitted function and another thing inside.
    """
    if isinstance(views, Mapping | Sequence):
        items = sorted(views.items()) if isinstance(views, Mapping) else enumerate(views)
        arrays = {name: at_least_float32(view) for name, view in items}
        shapes = {name: array.shape for name, array in arrays.items()}
        if len(set(shapes.values())) > 1:
            raise ValueError(
                f"all views need one shape [n, d], got {shapes}; project them to one width first"
            )
        stacked = jnp.stack(list(arrays.values())) if arrays else jnp.zeros((0, 0, 0))
    else:
        stacked = at_least_float32(views)
    if stacked.ndim != 3:
        raise ValueError(
            f"views must be arrays [n, d], by name or in a list, or one array [k, n, d], got {stacked.shape}"
        )
    return stacked


def at_least_float32(values: Num[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Cast integers and floats narrower than float32 to float32; keep the dtype of wider floats."""
    array = jnp.asarray(values)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise ValueError(f"values must be real, got {array.dtype}")
    is_wide = jnp.issubdtype(array.dtype, jnp.floating) and jnp.finfo(array.dtype).bits >= 32
    return array.astype(array.dtype if is_wide else jnp.float32)


def broadcast_mask(mask: Mask | None, k: int, n: int) -> Bool[Array, "k n"] | None:
    """Broadcast a mask `[n]` or `[k, n]` to all views; None stays None, which costs nothing."""
    if mask is None:
        return None
    mask = jnp.asarray(mask, bool)
    if mask.shape not in ((n,), (k, n)):
        raise ValueError(f"mask must have shape [n] = {(n,)} or [k, n] = {(k, n)}, got {mask.shape}")
    return jnp.broadcast_to(mask, (k, n))


def normalise(
    rows: Float[Array, "*rows d"], present: Bool[Array, "*rows"] | None = None
) -> Float[Array, "*rows d"]:
    """Scale each row to length one; zero rows and absent rows become zero, with zero gradient.

    A zero row therefore has similarity 0 to every row. PyTorch's `normalize` gives it a gradient of 1e12,
    and the plain formula gives NaN.
    """
    if present is not None:
        # The content of an absent row, NaN included, must reach neither the value nor the gradient.
        rows = jnp.where(present[..., None], rows, 0)
    # Dividing by the largest entry first keeps the squares from over- and underflowing. This division needs
    # no gradient, because the result does not depend on the length of the row.
    largest = lax.stop_gradient(jnp.max(jnp.abs(rows), axis=-1, keepdims=True, initial=0))
    # The gradient grows as 1 / length. In rows shorter than this (1e-19 in float32) it is useless.
    is_zero = largest < jnp.finfo(rows.dtype).tiny ** 0.5
    # 0 * rows instead of 0: on a CPU, XLA's maximum of a long row ignores NaN. A row that is not finite must
    # not be taken for a zero row, or a diverged run would show the loss of chance.
    scaled = jnp.where(is_zero, 0 * rows, rows / jnp.where(is_zero, 1, largest))
    squares = jnp.sum(scaled * scaled, axis=-1, keepdims=True)
    return scaled * lax.rsqrt(jnp.where(is_zero, 1, squares))


def pair_indices(k: int) -> tuple[Int[Array, " p"], Int[Array, " p"]]:
    """Return the indices i < j of the unordered pairs of k views."""
    pairs = [(i, j) for i in range(k) for j in range(i + 1, k)]
    return jnp.array([i for i, _ in pairs]), jnp.array([j for _, j in pairs])


def similarities(anchors: Float[Array, "k n d"], candidates: Float[Array, "k m d"]) -> Float[Array, "p n m"]:
    """Compute the cosines of unit rows, one matrix per unordered pair of views.

    One matrix serves both directions: i -> j along its rows, j -> i along its columns. The precision is
    `HIGHEST`, because an error here is divided by the temperature. Accelerators multiply float32 in TF32 or
    bfloat16 by default, with errors of 1e-3, which at a temperature of 0.01 is a tenth of a nat.
    """
    i, j = pair_indices(anchors.shape[0])
    return jnp.einsum("pnd,pmd->pnm", anchors[i], candidates[j], precision=lax.Precision.HIGHEST)


def positive_similarities(views: Float[Array, "k n d"]) -> Float[Array, "p n"]:
    """Compute the cosine of each positive pair: the diagonals of `similarities(views, views)`."""
    i, j = pair_indices(views.shape[0])
    # All k^2 products, because indexing the rows by i and j first would copy [n, d] p times.
    return jnp.einsum("ind,jnd->ijn", views, views, precision=lax.Precision.HIGHEST)[i, j]


def logsumexp(
    logits: Float[Array, "..."], axis: int, where: Bool[Array, "..."] | None = None
) -> Float[Array, "..."]:
    """Compute log sum exp; for an empty sum `log_zero`, so that zero times it is zero and not NaN."""
    if where is not None:
        logits = jnp.where(where, logits, log_zero(logits))
    return jax.nn.logsumexp(logits, axis=axis)


def log_zero(like: Float[Array, "..."]) -> float:
    """Return a finite stand-in for log 0: half the range, so that a difference of two stays finite."""
    return float(jnp.finfo(like.dtype).min) / 2
