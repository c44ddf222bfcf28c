"""Weighted sum over hidden states and the first dense layer as one operation, with its own gradient."""

from functools import reduce
from operator import add

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from pcl_jax.arrays import Array

_RUN = 32
"""Frames whose contributions to the gradient of `mix_dense` are one expression."""


def _pieces(x: Array, frames: int) -> Array:
    """`[g, t, ...]` -> `[pieces, g, frames, ...]`, zeros after the end."""
    x = jnp.pad(x, [(0, 0), (0, -x.shape[1] % frames)] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(x.shape[0], -1, frames, *x.shape[2:]), 1, 0)


def _frames_a_piece() -> int:
    """What of the frames, their gradient and the kernel stays in a core's cache, or fills an accelerator."""
    return 128 if jax.default_backend() == "cpu" else 8192


def _mixed(values, rows, weights):
    """One loop over the frames where they lie; an einsum would write them out, convert, read them again."""
    return reduce(add, (values[rows, h].astype(jnp.float32) * weights[h] for h in range(values.shape[1])))


@jax.custom_vjp
def mix_dense(
    values: Float[Array, "_ h d"],
    rows: Int[Array, "g t"],
    weights: Float[Array, " h"],
    kernel: Float[Array, "d d2"],
) -> Float[Array, "g t d2"]:
    """Weighted sum over the hidden states of each given frame, times a matrix: `gthd,h,de->gte` of
    `values[rows]`.

    Most of a step of pre-training is here, so it goes through the frames in pieces that stay in the cache,
    forward and backward, and never writes the sums out: with its gradient two thirds of the time that sums,
    products and their gradients take one after the other (2-core CPU). No gradient for the frozen values.
    """
    values, width = jnp.asarray(values), rows.shape[1]

    def forward(_, rows):
        return None, _mixed(values, rows, weights) @ kernel

    _, made = jax.lax.scan(forward, None, _pieces(jnp.asarray(rows), _frames_a_piece()))
    return jnp.moveaxis(made, 0, 1).reshape(len(rows), -1, kernel.shape[1])[:, :width]


def _mix_dense_forward(values, rows, weights, kernel):
    return mix_dense(values, rows, weights, kernel), (jnp.asarray(values), jnp.asarray(rows), weights, kernel)


def _mix_dense_backward(residuals, gradient):
    values, rows, weights, kernel = residuals
    _, h, d = values.shape

    def of_piece(totals, one):
        of_states, of_kernel = totals
        rows, gradient = one
        rows, gradient = rows.ravel(), gradient.reshape(-1, kernel.shape[1])
        of_kernel += gradient.T @ _mixed(values, rows, weights)  # transposed: the mixed frames need not be
        back = jax.lax.optimization_barrier(gradient @ kernel.T)
        # Of `_RUN` frames at once, so that the sum stays in a register while the frames stream by.
        rows, back = rows.reshape(-1, _RUN), back.reshape(-1, _RUN, 1, d)
        products = (values[rows[:, i]].astype(jnp.float32) * back[:, i] for i in range(_RUN))
        of_states += jax.lax.optimization_barrier(reduce(add, products)).sum(axis=0)
        return (of_states, of_kernel), None

    size = _frames_a_piece()
    totals = jnp.zeros((h, d)), jnp.zeros_like(kernel.T)
    (of_states, of_kernel), _ = jax.lax.scan(of_piece, totals, (_pieces(rows, size), _pieces(gradient, size)))
    return None, None, of_states.sum(axis=1), of_kernel.T


mix_dense.defvjp(_mix_dense_forward, _mix_dense_backward)
