"""The sums over the negatives of all pairs of views, as whole matrices or block by block.

`sum_negatives` holds the k(k-1)/2 similarity matrices, and XLA's derivative of it holds several more of that
size. `sum_negatives_blocked` visits them tile by tile with running sums, as FlashAttention does, and its
derivative visits the tiles again: O(k n d + k^2 block_size^2) memory instead of O(k^2 n^2). It needs four
matrix products where `sum_negatives` needs three, but its tiles stay in the cache.

    Dao et al., FlashAttention: fast and memory-efficient exact attention with IO-awareness, NeurIPS 2022.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from .cosine import log_zero, logsumexp, pair_indices, similarities


class Rows(NamedTuple):
    """Unit rows of all views, their positive similarities and the temperature of each direction."""

    anchors: Float[Array, "k n d"]
    candidates: Float[Array, "k m d"]
    anchor_positive: Float[Array, "p n"]  # similarity of each anchor in i with the same utterance in j ...
    candidate_positive: Float[Array, "p m"]  # ... and the same for all candidates
    forward_temperature: Float[Array, " p"]  # i -> j
    backward_temperature: Float[Array, " p"]  # j -> i
    anchor_present: Bool[Array, "k n"] | None
    candidate_present: Bool[Array, "k m"] | None
    offset: Int[Array, ""] | int  # index, among the candidates, of the first anchor
    anchor_group: Int[Array, " n"] | None = None  # an anchor's negatives are the candidates of its group
    candidate_group: Int[Array, " m"] | None = None


class Negatives(NamedTuple):
    r"""Logs of the sums over the negatives, $\log \sum_{m \ne l} \exp((s_{lm} - s_{ll}) / \tau)$."""

    forward: Float[Array, "p n"]  # anchors in i, over all candidates in j
    backward: Float[Array, "p m"]  # anchors in j (the candidates), over these rows of i


def sum_negatives(rows: Rows) -> Negatives:
    """Sum over whole matrices; differentiable any number of times, in any mode."""
    i, j = pair_indices(rows.anchors.shape[0])
    n, m = rows.anchors.shape[1], rows.candidates.shape[1]
    s = similarities(rows.anchors, rows.candidates)
    is_negative = (rows.offset + jnp.arange(n)[:, None] != jnp.arange(m)[None])[None]
    if rows.anchor_group is not None and rows.candidate_group is not None:
        is_negative &= (rows.anchor_group[:, None] == rows.candidate_group[None])[None]
    a, c = rows.anchor_present, rows.candidate_present
    return Negatives(
        logsumexp(
            (s - rows.anchor_positive[:, :, None]) / rows.forward_temperature[:, None, None],
            axis=2,
            where=is_negative if c is None else is_negative & c[j][:, None, :],
        ),
        logsumexp(
            (s - rows.candidate_positive[:, None, :]) / rows.backward_temperature[:, None, None],
            axis=1,
            where=is_negative if a is None else is_negative & a[i][:, :, None],
        ),
    )


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def sum_negatives_blocked(rows: Rows, block_size: int) -> Negatives:
    """Sum over tiles of `block_size` anchors and candidates; differentiable once, in reverse mode."""
    return _forward(rows, block_size)[0]


def _forward(rows, block_size):
    n, m = rows.anchors.shape[1], rows.candidates.shape[1]
    anchors, candidates, tiles = _tile(rows, block_size)

    def visit(negatives, tile):
        row, column = tile
        forward, backward, _, _ = _logits(
            rows, _read(anchors, row, block_size), _read(candidates, column, block_size)
        )
        forward = jnp.logaddexp(_read(negatives.forward, row, block_size), logsumexp(forward, 2))
        backward = jnp.logaddexp(_read(negatives.backward, column, block_size), logsumexp(backward, 1))
        return Negatives(
            _write(negatives.forward, row, forward), _write(negatives.backward, column, backward)
        ), None

    # `full_like` and `zeros_like` also inherit the mesh axes over which the rows vary, which a scan under
    # `shard_map` must know.
    start = Negatives(*(jnp.full_like(x.positive, log_zero(x.positive)) for x in (anchors, candidates)))
    negatives, _ = lax.scan(visit, start, tiles)
    negatives = Negatives(negatives.forward[:, :n], negatives.backward[:, :m])
    return negatives, (rows, negatives)


def _backward(block_size, residuals, gradients):
    rows, negatives = residuals
    n, m = rows.anchors.shape[1], rows.candidates.shape[1]
    i, j = pair_indices(rows.anchors.shape[0])
    d_forward = gradients.forward / rows.forward_temperature[:, None]
    d_backward = gradients.backward / rows.backward_temperature[:, None]
    anchors, candidates, tiles = _tile(rows, block_size)
    anchor_inputs = anchors, *_pad((negatives.forward, d_forward), block_size)
    candidate_inputs = candidates, *_pad((negatives.backward, d_backward), block_size)

    def visit(gradients, tile):
        d_anchors, d_candidates, d_forward_temperature, d_backward_temperature = gradients
        row, column = tile
        block, forward_sum, d_forward = _read(anchor_inputs, row, block_size)
        partner, backward_sum, d_backward = _read(candidate_inputs, column, block_size)
        forward, backward, in_forward, in_backward = _logits(rows, block, partner)
        # The derivative of log sum exp is the softmax. The parts of both directions are added before the
        # matrix products. For an empty sum `forward_sum` is arbitrary and its exponential may be infinite.
        d_rows = jnp.where(in_forward, jnp.exp(forward - forward_sum[:, :, None]), 0) * d_forward[:, :, None]
        d_columns = (
            jnp.where(in_backward, jnp.exp(backward - backward_sum[:, None, :]), 0) * d_backward[:, None, :]
        )
        d_s = d_rows + d_columns
        d_a = jnp.einsum("pnm,pmd->pnd", d_s, partner.rows[j], precision=lax.Precision.HIGHEST)
        d_c = jnp.einsum("pnm,pnd->pmd", d_s, block.rows[i], precision=lax.Precision.HIGHEST)
        # XLA removes these sums where the temperature is not differentiated (15 to 25 % of the time).
        d_forward_temperature -= jnp.sum(jnp.where(in_forward, d_rows * forward, 0), axis=(1, 2))
        d_backward_temperature -= jnp.sum(jnp.where(in_backward, d_columns * backward, 0), axis=(1, 2))
        d_anchors = _write(d_anchors, row, _read(d_anchors, row, block_size).at[i].add(d_a))
        d_candidates = _write(d_candidates, column, _read(d_candidates, column, block_size).at[j].add(d_c))
        return (d_anchors, d_candidates, d_forward_temperature, d_backward_temperature), None

    zero = jnp.zeros_like(rows.forward_temperature)
    start = jnp.zeros_like(anchors.rows), jnp.zeros_like(candidates.rows), zero, zero
    (d_anchors, d_candidates, *d_temperatures), _ = lax.scan(visit, start, tiles)
    derivative = rows._replace(
        anchors=d_anchors[:, :n],
        candidates=d_candidates[:, :m],
        # A softmax sums to one.
        anchor_positive=-d_forward,
        candidate_positive=-d_backward,
        forward_temperature=d_temperatures[0],
        backward_temperature=d_temperatures[1],
        anchor_present=None,
        candidate_present=None,
        offset=None,
        anchor_group=None,
        candidate_group=None,
    )
    return (jax.tree.map(_differentiated_once, derivative),)


sum_negatives_blocked.defvjp(_forward, _backward)


@jax.custom_jvp
def _differentiated_once(derivative: Array) -> Array:
    return derivative


@_differentiated_once.defjvp
def _refuse(primals, tangents):
    # JAX would differentiate the loops correctly, but would hold every tile: the very memory that
    # `block_size` is meant to save.
    raise NotImplementedError(
        "a second derivative through a loss with block_size is not supported; use block_size=None for it"
    )


class _Side(NamedTuple):
    """One side of the similarity matrices: the anchors or the candidates."""

    rows: Float[Array, "k n d"]
    positive: Float[Array, "p n"]
    present: Bool[Array, "k n"]
    position: Int[Array, "1 n"]
    group: Int[Array, "1 n"]


def _tile(rows: Rows, block_size: int) -> tuple[_Side, _Side, tuple[Int[Array, " t"], Int[Array, " t"]]]:
    """Pad both sides with absent rows to whole blocks; return them and each tile's first row and column."""
    n, m = rows.anchors.shape[1], rows.candidates.shape[1]
    a, c = rows.anchor_present, rows.candidate_present
    a = jnp.ones(rows.anchors.shape[:2], bool) if a is None else a
    c = jnp.ones(rows.candidates.shape[:2], bool) if c is None else c
    g, h = rows.anchor_group, rows.candidate_group
    if g is None or h is None:
        g, h = jnp.zeros(n, int), jnp.zeros(m, int)  # all rows are of one group
    anchors = _Side(rows.anchors, rows.anchor_positive, a, rows.offset + jnp.arange(n)[None], g[None])
    candidates = _Side(rows.candidates, rows.candidate_positive, c, jnp.arange(m)[None], h[None])
    starts = jnp.meshgrid(jnp.arange(0, n, block_size), jnp.arange(0, m, block_size), indexing="ij")
    return (
        _pad(anchors, block_size),
        _pad(candidates, block_size),
        (starts[0].ravel(), starts[1].ravel()),
    )


def _pad(arrays, block_size):
    def pad(x):
        return jnp.pad(x, [(0, 0), (0, -x.shape[1] % block_size)] + [(0, 0)] * (x.ndim - 2))

    return jax.tree.map(pad, arrays)


def _read(arrays, start, block_size):
    return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, start, block_size, axis=1), arrays)


def _write(array, start, block):
    return lax.dynamic_update_slice_in_dim(array, block, start, axis=1)


def _logits(rows: Rows, anchors: _Side, candidates: _Side):
    """Compute a tile's logits minus those of the positives, in both directions, and the negatives' masks."""
    i, j = pair_indices(rows.anchors.shape[0])
    s = similarities(anchors.rows, candidates.rows)
    is_negative = ((candidates.position != anchors.position.T) & (candidates.group == anchors.group.T))[None]
    in_forward = is_negative & candidates.present[j][:, None, :]
    in_backward = is_negative & anchors.present[i][:, :, None]
    forward = (s - anchors.positive[:, :, None]) / rows.forward_temperature[:, None, None]
    backward = (s - candidates.positive[:, None, :]) / rows.backward_temperature[:, None, None]
    floor = log_zero(s)
    return (
        jnp.where(in_forward, forward, floor),
        jnp.where(in_backward, backward, floor),
        in_forward,
        in_backward,
    )
