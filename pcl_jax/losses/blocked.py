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
    n, m = rows.anchors.shape[1], rows.candidates.shape[1]
    anchors, candidates, tiles = _tiled(rows, block_size)

    def visit(negatives, tile):
        row, column = tile
        along_rows, along_columns, _ = _logits(
            rows, _cut(anchors, row, block_size), _cut(candidates, column, block_size)
        )
        forward = jnp.logaddexp(_cut(negatives.forward, row, block_size), logsumexp(along_rows, 2))
        backward = jnp.logaddexp(_cut(negatives.backward, column, block_size), logsumexp(along_columns, 1))
        return Negatives(
            _put(negatives.forward, row, forward), _put(negatives.backward, column, backward)
        ), None

    # `full_like` and `zeros_like` also inherit the mesh axes over which the rows vary: a scan under
    # `shard_map` wants to be told.
    start = Negatives(*(jnp.full_like(x.positive, nothing(x.positive)) for x in (anchors, candidates)))
    negatives, _ = lax.scan(visit, start, tiles)
    negatives = Negatives(negatives.forward[:, :n], negatives.backward[:, :m])
    return negatives, (rows, negatives)


def _backward(block_size, residuals, gradients):
    rows, negatives = residuals
    n, m = rows.anchors.shape[1], rows.candidates.shape[1]
    i, j = pairs(rows.anchors.shape[0])
    d_forward = gradients.forward / rows.forth[:, None]
    d_backward = gradients.backward / rows.back[:, None]
    anchors, candidates, tiles = _tiled(rows, block_size)
    upright = anchors, *_padded((negatives.forward, d_forward), block_size)
    across = candidates, *_padded((negatives.backward, d_backward), block_size)

    def visit(carry, tile):
        d_anchors, d_candidates, d_forth, d_back = carry
        row, column = tile
        block, forward, d_forward = _cut(upright, row, block_size)
        other, backward, d_backward = _cut(across, column, block_size)
        along_rows, along_columns, there = _logits(rows, block, other)
        # d log sum exp is the softmax; the tile's row and column parts are added before multiplying. Where
        # nothing is there, `forward` may be anything and its exponential infinite.
        d_rows = jnp.where(there[0], jnp.exp(along_rows - forward[:, :, None]), 0) * d_forward[:, :, None]
        d_columns = (
            jnp.where(there[1], jnp.exp(along_columns - backward[:, None, :]), 0) * d_backward[:, None]
        )
        d_s = d_rows + d_columns
        d_a = jnp.einsum("pnm,pmd->pnd", d_s, other.rows[j], precision=lax.Precision.HIGHEST)
        d_c = jnp.einsum("pnm,pnd->pmd", d_s, block.rows[i], precision=lax.Precision.HIGHEST)
        # XLA removes these where the temperature is not differentiated (seen: 15 to 25 % of the time).
        d_forth -= jnp.sum(jnp.where(there[0], d_rows * along_rows, 0), axis=(1, 2))
        d_back -= jnp.sum(jnp.where(there[1], d_columns * along_columns, 0), axis=(1, 2))
        d_anchors = _put(d_anchors, row, _cut(d_anchors, row, block_size).at[i].add(d_a))
        d_candidates = _put(d_candidates, column, _cut(d_candidates, column, block_size).at[j].add(d_c))
        return (d_anchors, d_candidates, d_forth, d_back), None

    zero = jnp.zeros_like(rows.forth)
    start = jnp.zeros_like(anchors.rows), jnp.zeros_like(candidates.rows), zero, zero
    (d_anchors, d_candidates, d_forth, d_back), _ = lax.scan(visit, start, tiles)
    derivative = rows._replace(
        anchors=d_anchors[:, :n],
        candidates=d_candidates[:, :m],
        # A softmax sums to one.
        anchor_positive=-d_forward,
        candidate_positive=-d_backward,
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


class _Side(NamedTuple):
    rows: Float[Array, "k n d"]
    positive: Float[Array, "p n"]
    present: Bool[Array, "k n"]
    position: Int[Array, "1 n"]


def _tiled(rows: Rows, block_size: int) -> tuple[_Side, _Side, tuple[Int[Array, " t"], Int[Array, " t"]]]:
    """Both sides of the matrices, filled up with absent rows, and where the tiles begin."""
    n, m = rows.anchors.shape[1], rows.candidates.shape[1]
    a, c = rows.anchor_present, rows.candidate_present
    a = jnp.ones(rows.anchors.shape[:2], bool) if a is None else a
    c = jnp.ones(rows.candidates.shape[:2], bool) if c is None else c
    anchors = _Side(rows.anchors, rows.anchor_positive, a, rows.offset + jnp.arange(n)[None])
    candidates = _Side(rows.candidates, rows.candidate_positive, c, jnp.arange(m)[None])
    starts = jnp.meshgrid(jnp.arange(0, n, block_size), jnp.arange(0, m, block_size), indexing="ij")
    return (
        _padded(anchors, block_size),
        _padded(candidates, block_size),
        (starts[0].ravel(), starts[1].ravel()),
    )


def _padded(arrays, block_size):
    def pad(x):
        return jnp.pad(x, [(0, 0), (0, -x.shape[1] % block_size)] + [(0, 0)] * (x.ndim - 2))

    return jax.tree.map(pad, arrays)


def _cut(arrays, start, block_size):
    return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, start, block_size, axis=1), arrays)


def _put(array, start, block):
    return lax.dynamic_update_slice_in_dim(array, block, start, axis=1)


def _logits(rows: Rows, block: _Side, other: _Side):
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
