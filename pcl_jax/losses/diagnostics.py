"""Diagnostics of the agreement of views during training: retrieval accuracy, alignment, uniformity.

They are computed over the rows that are present. They are NaN where no row is present, and where a present
row is not finite.
"""

from collections.abc import Mapping
from functools import partial
from typing import overload

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from .cosine import Mask, NamedViews, NumberedViews, Views, broadcast_mask, normalise, stack

# Number of anchors compared at a time, which bounds the memory at k^2 n times this.
_ANCHORS = 256


@overload
def retrieval_accuracy(
    views: NamedViews, k: int = ..., mask: Mask | None = ...
) -> dict[tuple[str, str], Float[Array, ""]]: ...
@overload
def retrieval_accuracy(
    views: NumberedViews, k: int = ..., mask: Mask | None = ...
) -> Float[Array, "views views"]: ...
def retrieval_accuracy(
    views: Views, k: int = 1, mask: Mask | None = None
) -> Float[Array, "views views"] | dict[tuple[str, str], Float[Array, ""]]:
    r"""Compute recall at `k`: the share of anchors whose positive is among the `k` nearest candidates.

    $$\frac{1}{n} \sum_l \mathbb{1}
      \bigl[ \lvert \{ m \ne l : s(z_l^i, z_m^j) \ge s(z_l^i, z_l^j) \} \rvert < k \bigr]$$

    Chance is k / n. Ties count **against** the anchor: collapsed views (all rows equal) score 0 for k < n,
    where an `argmax` may report 1. Similarities that differ by less than rounding (16 eps) are ties.

    Args:
        views: A mapping or sequence of arrays `[n, d]`, or one array `[k, n, d]`.
        k: Number of nearest candidates among which the positive counts as found.
        mask: `[n]`, or one row per view (of a mapping in sorted order of names), False where a row is
            absent. Direction i -> j is scored on the utterances present in both views, among all rows present
            in j.

    Returns:
        An array whose `[i, j]` is the accuracy from anchors in view i to candidates in view j. Its diagonal,
        each view against itself, is 1 unless a view holds duplicates. For a mapping: (name, name) ->
        accuracy of each ordered pair of different views. NaN where no utterance has both views, or where a
        present row of either view is not finite.

    Raises:
        ValueError: If shapes do not fit, or `k` is less than 1.

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
    z, present = _normalise(z, mask)
    tie = 16 * jnp.finfo(z.dtype).eps

    def score(anchor):
        row, row_present, position = anchor
        similarity = jnp.einsum("id,jmd->ijm", row, z, precision=lax.Precision.HIGHEST)
        positive = lax.dynamic_slice_in_dim(similarity, position, 1, axis=2)
        is_negative = (jnp.arange(z.shape[1]) != position)[None]
        nearer = (similarity >= positive - tie) & (present & is_negative)[None]
        both = row_present[:, None] & lax.dynamic_slice_in_dim(present, position, 1, axis=1).T
        return (jnp.sum(nearer, axis=2) < k) & both, both

    hits, both = lax.map(score, _anchors(z, present), batch_size=_ANCHORS)
    accuracy = jnp.sum(hits, axis=0, dtype=z.dtype) / jnp.sum(both, axis=0, dtype=z.dtype)
    # Comparisons with NaN are False: without this, a diverged view would retrieve everything.
    finite = jnp.all(jnp.isfinite(z), axis=(1, 2))
    return jnp.where(finite[:, None] & finite[None], accuracy, jnp.nan)


@overload
def alignment(
    views: NamedViews, *, alpha: float = ..., mask: Mask | None = ...
) -> dict[tuple[str, str], Float[Array, ""]]: ...
@overload
def alignment(
    views: NumberedViews, *, alpha: float = ..., mask: Mask | None = ...
) -> Float[Array, "views views"]: ...
def alignment(
    views: Views, *, alpha: float = 2.0, mask: Mask | None = None
) -> Float[Array, "views views"] | dict[tuple[str, str], Float[Array, ""]]:
    r"""Compute the mean distance of positive pairs on the unit sphere; lower is better aligned.

    $$\frac{1}{n} \sum_l \lVert u_l^i - u_l^j \rVert^\alpha, \qquad u = z / \lVert z \rVert$$

    At $\alpha = 2$ it is 0 for equal, 2 for orthogonal and 4 for opposite directions.

    Args:
        views: A mapping or sequence of arrays `[n, d]`, or one array `[k, n, d]`.
        alpha: The power of the distance, positive.
        mask: `[n]`, or one row per view (of a mapping in sorted order of names), False where a row is
            absent.

    Returns:
        A symmetric array with one entry per pair of views and a diagonal of 0. For a mapping: (name, name) ->
        value of each ordered pair of different views. NaN where no utterance has both views, or where a row
        of such an utterance is not finite.

    Raises:
        ValueError: If shapes do not fit.

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
    z, present = _normalise(z, mask)

    def distance(row):
        squares = jnp.sum((row[:, None] - row[None]) ** 2, axis=2)
        # The slope of the power is infinite at 0 for alpha < 2; equal rows get the gradient 0.
        is_zero = squares == 0
        return jnp.where(is_zero, 0, jnp.where(is_zero, 1, squares) ** (alpha / 2))

    distances = lax.map(distance, jnp.moveaxis(z, 1, 0), batch_size=_ANCHORS)
    both = present[:, None] & present[None]
    total = jnp.sum(jnp.where(both, jnp.moveaxis(distances, 0, 2), 0), axis=2)
    return total / jnp.sum(both, axis=2, dtype=z.dtype)


@overload
def uniformity(
    views: NamedViews, *, scale: float = ..., mask: Mask | None = ...
) -> dict[str, Float[Array, ""]]: ...
@overload
def uniformity(
    views: NumberedViews, *, scale: float = ..., mask: Mask | None = ...
) -> Float[Array, " views"]: ...
def uniformity(
    views: Views, *, scale: float = 2.0, mask: Mask | None = None
) -> Float[Array, " views"] | dict[str, Float[Array, ""]]:
    r"""Compute how evenly each view spreads its rows over the unit sphere; lower is more even, 0 is collapse.

    $$\log \frac{1}{n (n - 1)} \sum_{l \ne m} \exp(-t \lVert u_l - u_m \rVert^2)$$

    Args:
        views: A mapping or sequence of arrays `[n, d]`, or one array `[k, n, d]`.
        scale: $t$, positive.
        mask: `[n]`, or one row per view (of a mapping in sorted order of names), False where a row is
            absent.

    Returns:
        One value per view, by name for a mapping. NaN for a view of fewer than two rows, or with a present
        row that is not finite.

    Raises:
        ValueError: If shapes do not fit.

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
    z, present = _normalise(z, mask)
    n = z.shape[1]
    lengths = jnp.sum(z * z, axis=2)

    def kernel(anchor):
        row, row_present, position = anchor
        products = jnp.einsum("id,imd->im", row, z, precision=lax.Precision.HIGHEST)
        squares = jnp.maximum(jnp.sum(row * row, axis=1)[:, None] + lengths - 2 * products, 0)
        compared = present & row_present[:, None] & (jnp.arange(n) != position)[None]
        return jnp.sum(jnp.where(compared, jnp.exp(-scale * squares), 0), axis=1), jnp.sum(compared, axis=1)

    sums, counts = lax.map(kernel, _anchors(z, present), batch_size=_ANCHORS)
    return jnp.log(jnp.sum(sums, axis=0) / jnp.sum(counts, axis=0, dtype=z.dtype))


def _normalise(z, mask: Mask | None) -> tuple[Float[Array, "k n d"], Bool[Array, "k n"]]:
    present = broadcast_mask(mask, *z.shape[:2])
    return normalise(z, present), jnp.ones(z.shape[:2], bool) if present is None else present


def _anchors(z, present):
    return jnp.moveaxis(z, 1, 0), jnp.moveaxis(present, 1, 0), jnp.arange(z.shape[1])


def _by_pair(views: Views, matrix: Array) -> Array | dict[tuple[str, str], Array]:
    if not isinstance(views, Mapping):
        return matrix
    names = list(enumerate(sorted(views)))
    return {(a, b): matrix[i, j] for i, a in names for j, b in names if i != j}
