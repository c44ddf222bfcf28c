"""The sums over the negatives of all pairs of views, whole or block by block.

`whole` holds the K(K-1)/2 similarity matrices, and XLA's derivative of it holds some more of their size.
`blocked` visits them tile by tile with running sums, as FlashAttention does, and its derivative visits the
tiles again: O(k n d + k^2 block_size^2) memory instead of O(k^2 n^2). It multiplies four matrices where
`whole` multiplies three, but its tiles stay in the cache.

    Dao et al., FlashAttention: fast and memory-efficient exact attention with IO-awareness, NeurIPS 2022.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from .cosine import logsumexp, nothing, pairs, similarities


class Rows(NamedTuple):
    """What goes in. `forth` and `back` are the temperatures of i -> j and of j -> i."""

    anchors: Float[Array, "k n d"]
    candidates: Float[Array, "k m d"]
    anchor_positive: Float[Array, "p n"]  # similarity of each row of i with its own row of j ...
    candidate_positive: Float[Array, "p m"]  # ... and the same for all the candidates
    forth: Float[Array, " p"]
    back: Float[Array, " p"]
    anchor_present: Bool[Array, "k n"] | None
    candidate_present: Bool[Array, "k m"] | None
    offset: Int[Array, ""] | int  # the first anchor is this candidate


class Negatives(NamedTuple):
    r"""Logs of the sums over the negatives, $\log \sum_{m \ne l} \exp((s_{lm} - s_{ll}) / \tau)$."""

    forward: Float[Array, "p n"]  # anchors in i, over all candidates in j
    backward: Float[Array, "p m"]  # anchors in j (the candidates), over these rows of i


def whole(rows: Rows) -> Negatives:
    """All at once; differentiable any number of times, in any mode."""
    i, j = pairs(rows.anchors.shape[0])
    n, m = rows.anchors.shape[1], rows.candidates.shape[1]
    s = similarities(rows.anchors, rows.candidates)
    other = rows.offset + jnp.arange(n)[:, None] != jnp.arange(m)
    a, c = rows.anchor_present, rows.candidate_present
    return Negatives(
        logsumexp(
            (s - rows.anchor_positive[:, :, None]) / rows.forth[:, None, None],
            axis=2,
            where=other if c is None else other & c[j][:, None, :],
        ),
        logsumexp(
            (s - rows.candidate_positive[:, None, :]) / rows.back[:, None, None],
            axis=1,
            where=other if a is None else other & a[i][:, :, None],
        ),
    )


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def blocked(rows: Rows, block_size: int) -> Negatives:
    """Tile by tile, `block_size` anchors against `block_size` candidates; differentiable once, in reverse."""
    return _forward(rows, block_size)[0]


def _forward(rows, block_size):
    k, n, _ = rows.anchors.shape
    m = rows.candidates.shape[1]
    i, _ = pairs(k)
    upright, across = _tiled(rows, block_size)

    def strip(backward, block):
        def tile(forward, other):
            other, backward = other
            along_rows, along_columns, _ = _logits(rows, block, other)
            forward = jnp.logaddexp(forward, logsumexp(along_rows, 2))
            backward = jnp.logaddexp(backward, logsumexp(along_columns, 1))
            return forward, backward

        # `full_like`, here and below, also inherits the mesh axes over which the rows vary: a scan under
        # `shard_map` wants to be told.
        start = jnp.full_like(rows.anchors, nothing(rows.anchors), shape=(len(i), block_size))
        forward, backward = lax.scan(tile, start, (across, backward))
        return backward, forward

    start = jnp.full_like(
        rows.anchors, nothing(rows.anchors), shape=(-(-m // block_size), len(i), block_size)
    )
    backward, forward = lax.scan(strip, start, upright)
    negatives = Negatives(_join(forward, n), _join(backward, m))
    return negatives, (rows, negatives)


def _backward(block_size, residuals, gradients):
    rows, negatives = residuals
    k, n, _ = rows.anchors.shape
    m = rows.candidates.shape[1]
    i, j = pairs(k)
    upright, across = _tiled(rows, block_size)
    upright = upright, _split((negatives.forward, gradients.forward / rows.forth[:, None]), block_size)
    across = across, _split((negatives.backward, gradients.backward / rows.back[:, None]), block_size)

    def strip(carry, block):
        d_candidates, d_forth, d_back = carry
        block, (forward, d_forward) = block

        def tile(carry, other):
            d_a, d_forth, d_back = carry
            (other, (backward, d_backward)), d_c = other
            along_rows, along_columns, there = _logits(rows, block, other)
            # d log sum exp is the softmax; the tile's row and column parts are added before multiplying.
            # Where nothing is there, `forward` may be anything and its exponential infinite.
            d_rows = jnp.where(there[0], jnp.exp(along_rows - forward[:, :, None]), 0) * d_forward[:, :, None]
            d_columns = jnp.exp(along_columns - backward[:, None, :]) * d_backward[:, None, :]
            d_columns = jnp.where(there[1], d_columns, 0)
            d_s = d_rows + d_columns
            a, c = block.rows, other.rows
            d_a = d_a.at[i].add(jnp.einsum("pnm,pmd->pnd", d_s, c[j], precision=lax.Precision.HIGHEST))
            d_c = d_c.at[j].add(jnp.einsum("pnm,pnd->pmd", d_s, a[i], precision=lax.Precision.HIGHEST))
            # XLA removes these where the temperature is not differentiated (seen: 15 to 25 % of the time).
            d_forth -= jnp.sum(jnp.where(there[0], d_rows * along_rows, 0), axis=(1, 2))
            d_back -= jnp.sum(jnp.where(there[1], d_columns * along_columns, 0), axis=(1, 2))
            return (d_a, d_forth, d_back), d_c

        carry = jnp.zeros_like(block.rows), d_forth, d_back
        (d_a, d_forth, d_back), d_candidates = lax.scan(tile, carry, (across, d_candidates))
        return (d_candidates, d_forth, d_back), d_a

    zero = jnp.zeros_like(rows.anchors, shape=(len(i),))
    carry = jnp.zeros_like(across[0].rows), zero, zero
    (d_candidates, d_forth, d_back), d_anchors = lax.scan(strip, carry, upright)
    derivative = rows._replace(
        anchors=_join(d_anchors, n),
        candidates=_join(d_candidates, m),
        # A softmax sums to one.
        anchor_positive=-gradients.forward / rows.forth[:, None],
        candidate_positive=-gradients.backward / rows.back[:, None],
        forth=d_forth,
        back=d_back,
        anchor_present=None,
        candidate_present=None,
        offset=None,
    )
    return (jax.tree.map(_differentiated_once, derivative),)


blocked.defvjp(_forward, _backward)


@jax.custom_jvp
def _differentiated_once(derivative: Array) -> Array:
    return derivative


@_differentiated_once.defjvp
def _refuse(primals, tangents):
    # JAX would go on and differentiate the loops, correctly, but holding every tile: the very memory that
    # the caller asked to be spared.
    raise NotImplementedError(
        "a second derivative through a loss with block_size is not supported; use block_size=None for it"
    )


class _Block(NamedTuple):
    rows: Array
    positive: Array
    present: Array
    position: Array


def _tiled(rows: Rows, block_size: int) -> tuple[_Block, _Block]:
    """Both sides of the matrices, cut into blocks; the rows that fill up the last block are absent."""
    n, m = rows.anchors.shape[1], rows.candidates.shape[1]
    a, c = rows.anchor_present, rows.candidate_present
    a = jnp.ones(rows.anchors.shape[:2], bool) if a is None else a
    c = jnp.ones(rows.candidates.shape[:2], bool) if c is None else c
    upright = _Block(rows.anchors, rows.anchor_positive, a, rows.offset + jnp.arange(n)[None])
    across = _Block(rows.candidates, rows.candidate_positive, c, jnp.arange(m)[None])
    return _split(upright, block_size), _split(across, block_size)


def _logits(rows: Rows, block: _Block, other: _Block):
    """A tile of the logits of i -> j and of j -> i, less their positives', and where they are negatives."""
    i, j = pairs(rows.anchors.shape[0])
    s = similarities(block.rows, other.rows)
    negative = block.position[0][:, None] != other.position[0]
    in_rows = negative & other.present[j][:, None, :]
    in_columns = negative & block.present[i][:, :, None]
    along_rows = (s - block.positive[:, :, None]) / rows.forth[:, None, None]
    along_columns = (s - other.positive[:, None, :]) / rows.back[:, None, None]
    floor = nothing(s)
    return (
        jnp.where(in_rows, along_rows, floor),
        jnp.where(in_columns, along_columns, floor),
        (in_rows, in_columns),
    )


def _split(arrays, block_size):
    """`[_, n, ...]` -> `[blocks, _, block_size, ...]`."""

    def split(x):
        padded = jnp.pad(x, [(0, 0), (0, -x.shape[1] % block_size)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(padded.reshape(x.shape[0], -1, block_size, *x.shape[2:]), 1, 0)

    return jax.tree.map(split, arrays)


def _join(blocks, n):
    """The inverse of `_split`."""
    x = jnp.moveaxis(blocks, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :n]
