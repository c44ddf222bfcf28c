r"""How well views agree, as numbers to watch while training: retrieval accuracy, alignment, uniformity.

They are defined for the rows that are there; of nothing at all they are NaN.
"""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from .cosine import Mask, Views, presence, stack, unit

# Anchors compared at a time: bounds the memory at k^2 n times this.
_ANCHORS = 256


def retrieval_accuracy(
    views: Views, k: int = 1, mask: Mask | None = None
) -> Float[Array, "views views"] | dict[tuple[str, str], Float[Array, ""]]:
    """How often an anchor's own row of another view is among the `k` nearest rows of that view.

    Chance is k / n. Ties count **against**: collapsed views, all rows alike, score 0 for k < n, where an
    `argmax` may report 1. Rows closer together than rounding can tell (16 eps) are ties.

    Args:
        views: name -> `[n, d]`, or an array of `[n, d]` stacked.
        k: how many of the nearest count.
        mask: `[n]`, or one row for each view (a mapping's in sorted order of names), False where a row is
            absent. Directions i -> j are scored on what is present in both, among all that is present in j.

    Returns:
        An array whose `[i, j]` is the accuracy from anchors in view i to view j; its diagonal, each view
        against itself, is 1 unless a view holds duplicates. For a mapping: (name, name) -> accuracy of
        each ordered pair of different views. NaN where no utterance has both views.

    Raises:
        ValueError: shapes do not fit, or `k` is less than 1.

    Example:
        >>> import jax
        >>> from pcl_jax.losses import retrieval_accuracy
        >>> clean = jax.random.normal(jax.random.key(0), (100, 16))
        >>> noisy = clean + jax.random.normal(jax.random.key(1), (100, 16))
        >>> for pair, accuracy in retrieval_accuracy({"clean": clean, "noisy": noisy}).items():
        ...     print(pair, f"{accuracy:.2f}")
        ('clean', 'noisy') 0.82
        ('noisy', 'clean') 0.79

    References:
        Radford et al., CLIP, ICML 2021 (zero-shot retrieval, recall at k).
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    return _by_pair(views, _retrieval_accuracy(stack(views), k, mask))


@partial(jax.jit, static_argnums=1)
def _retrieval_accuracy(z, k, mask):
    z, present = _prepared(z, mask)
    tie = 16 * jnp.finfo(z.dtype).eps

    def found(anchor):
        row, row_present, position = anchor
        similarity = jnp.einsum("id,jmd->ijm", row, z, precision=lax.Precision.HIGHEST)
        own = lax.dynamic_slice_in_dim(similarity, position, 1, axis=2)
        others = (similarity >= own - tie) & present[None] & (jnp.arange(z.shape[1]) != position)
        both = row_present[:, None] & lax.dynamic_index_in_dim(present, position, 1, keepdims=False)
        return (jnp.sum(others, axis=2) < k) & both, both

    hits, both = lax.map(found, _anchors(z, present), batch_size=_ANCHORS)
    return jnp.sum(hits, axis=0, dtype=z.dtype) / jnp.sum(both, axis=0, dtype=z.dtype)


def alignment(
    views: Views, *, alpha: float = 2.0, mask: Mask | None = None
) -> Float[Array, "views views"] | dict[tuple[str, str], Float[Array, ""]]:
    r"""Mean distance between the two views of an utterance, on the unit sphere: lower is better aligned.

    $$\frac{1}{n} \sum_l \lVert u_l^i - u_l^j \rVert^\alpha, \qquad u = z / \lVert z \rVert$$

    0 for equal directions, 2 for unrelated and 4 for opposite ones (at $\alpha = 2$).

    Args:
        views: name -> `[n, d]`, or an array of `[n, d]` stacked.
        alpha: the power of the distance, positive.
        mask: `[n]`, or one row for each view (a mapping's in sorted order of names), False where a row is
            absent.

    Returns:
        A symmetric array, one entry for each pair of views, its diagonal 0. For a mapping: (name, name) ->
        value for each ordered pair of different views. NaN where no utterance has both views.

    Raises:
        ValueError: shapes do not fit.

    Example:
        >>> import jax
        >>> from pcl_jax.losses import alignment
        >>> print(alignment(jax.numpy.array([[[1.0, 0.0]], [[0.0, 2.0]]])))
        [[0. 2.]
         [2. 0.]]

    References:
        Wang and Isola, Understanding contrastive representation learning through alignment and uniformity on
        the hypersphere, ICML 2020; the same number as their `lalign`.
    """
    return _by_pair(views, _alignment(stack(views), alpha, mask))


@jax.jit
def _alignment(z, alpha, mask):
    z, present = _prepared(z, mask)

    def distance(row):
        squares = jnp.sum((row[:, None] - row[None]) ** 2, axis=2)
        # The power is infinitely steep at 0 for alpha < 2; equal rows get the gradient 0.
        return jnp.where(squares > 0, jnp.where(squares > 0, squares, 1) ** (alpha / 2), 0)

    distances = lax.map(distance, jnp.moveaxis(z, 1, 0), batch_size=_ANCHORS)
    both = present[:, None] & present[None]
    total = jnp.sum(jnp.where(both, jnp.moveaxis(distances, 0, 2), 0), axis=2)
    return total / jnp.sum(both, axis=2, dtype=z.dtype)


def uniformity(
    views: Views, *, scale: float = 2.0, mask: Mask | None = None
) -> Float[Array, " views"] | dict[str, Float[Array, ""]]:
    r"""How evenly each view spreads its rows over the unit sphere: lower is more uniform, 0 is collapse.

    $$\log \frac{1}{n (n - 1)} \sum_{l \ne m} \exp(-t \lVert u_l - u_m \rVert^2)$$

    Args:
        views: name -> `[n, d]`, or an array of `[n, d]` stacked.
        scale: $t$.
        mask: `[n]`, or one row for each view (a mapping's in sorted order of names), False where a row is
            absent.

    Returns:
        One value for each view, by name for a mapping. NaN for a view of fewer than two rows.

    Raises:
        ValueError: shapes do not fit.

    Example:
        >>> import jax
        >>> from pcl_jax.losses import uniformity
        >>> spread = jax.random.normal(jax.random.key(0), (500, 64))
        >>> values = uniformity({"spread": spread, "collapsed": jax.numpy.ones((500, 64))})
        >>> print(f"{values['spread']:.2f} {values['collapsed']:.2f}")
        -3.88 0.00

    References:
        Wang and Isola, as for `alignment`; the same number as their `lunif`.
    """
    values = _uniformity(stack(views), scale, mask)
    if isinstance(views, Mapping):
        return dict(zip(sorted(views), values, strict=True))
    return values


@jax.jit
def _uniformity(z, scale, mask):
    z, present = _prepared(z, mask)
    n = z.shape[1]
    lengths = jnp.sum(z * z, axis=2)

    def kernel(anchor):
        row, row_present, position = anchor
        products = jnp.einsum("id,imd->im", row, z, precision=lax.Precision.HIGHEST)
        squares = jnp.maximum(jnp.sum(row * row, axis=1)[:, None] + lengths - 2 * products, 0)
        other = present & row_present[:, None] & (jnp.arange(n) != position)
        return jnp.sum(jnp.where(other, jnp.exp(-scale * squares), 0), axis=1), jnp.sum(other, axis=1)

    sums, counts = lax.map(kernel, _anchors(z, present), batch_size=_ANCHORS)
    return jnp.log(jnp.sum(sums, axis=0) / jnp.sum(counts, axis=0, dtype=z.dtype))


def _prepared(z, mask: Mask | None) -> tuple[Float[Array, "k n d"], Bool[Array, "k n"]]:
    present = presence(mask, *z.shape[:2])
    return unit(z, present), jnp.ones(z.shape[:2], bool) if present is None else present


def _anchors(z, present):
    return jnp.moveaxis(z, 1, 0), jnp.moveaxis(present, 1, 0), jnp.arange(z.shape[1])


def _by_pair(views: Views, matrix: Array) -> Array | dict[tuple[str, str], Array]:
    if not isinstance(views, Mapping):
        return matrix
    names = list(enumerate(sorted(views)))
    return {(a, b): matrix[i, j] for i, a in names for j, b in names if i != j}
