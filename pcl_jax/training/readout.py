r"""Batched multinomial logistic regression in dual form: thousands of small fits as one program.

With few labels the number of rows is far below the number of features, so a fit works on the rows' Gram matrix
$G = X X^\top$ alone, which all repeats, subsets and rounds share. It is the problem of scikit-learn's
`LogisticRegression` with `C = 1 / penalty` and sample weights, an unpenalised intercept included: by the
representer theorem the weight matrix is $X^\top \alpha$.

$$\min_{\alpha, b} \; \sum_i v_i \, \mathrm{CE}(y_i, \mathrm{softmax}(G_i \alpha + b))
  + \tfrac{\lambda}{2} \mathrm{tr}(\alpha^\top G \alpha)$$

Newton's method, each step by conjugate gradients in the metric of $G$ and with a line search; all counts are
fixed, so `vmap` runs many fits in step. Pure: arrays in, arrays out.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from pcl_jax.arrays import Array

NEWTON_STEPS = 12
CONJUGATE_STEPS = 24
"""Per Newton step. Both are enough for 1e-4 in log-probabilities against scikit-learn (tests/training/test_readout.py)."""
_STEPS = jnp.array([1.0, 0.5, 0.25, 0.125, 0.03125])
"""Step sizes that the line search tries; from the zero start, whole steps alone can diverge where classes part."""


class Dual(NamedTuple):
    """A fitted readout in dual form; logits of new rows are `gram(new, rows) @ alpha + bias`."""

    alpha: Float[Array, "n c"]
    bias: Float[Array, " c"]


def fit(
    gram: Float[Array, "n n"],
    targets: Float[Array, "n c"],
    weights: Float[Array, " n"],
    penalty: Float[Array, ""] | float,
) -> Dual:
    """Fit one readout; `jax.vmap` fits many.

    Args:
        gram: Inner products of the rows.
        targets: A distribution over the classes for each row: one-hot for a label, any for a pseudo-label.
        weights: Weight of each row's loss; a row of weight zero, padding for example, has no influence.
        penalty: The factor of half the squared norm; 1 / C in scikit-learn's terms.

    Returns:
        The parameters; `alpha` is zero in rows of weight zero. The intercepts sum to zero.
    """
    weights = weights[:, None]

    def newton(state: tuple[Array, Array, Array], _: None) -> tuple[tuple[Array, Array, Array], None]:
        alpha, bias, image = state  # image = gram @ alpha
        p = jax.nn.softmax(image + bias)

        def curvature(logits: Array) -> Array:
            """Apply the loss's second derivative in the logits."""
            pushed = p * logits
            return weights * (pushed - p * pushed.sum(axis=1, keepdims=True))

        residual = weights * (targets - p) - penalty * alpha
        step, shift, moved = _solve(gram, curvature, penalty, residual, (weights * (targets - p)).sum(axis=0))
        size = _line_search(targets, weights, penalty, (alpha, bias, image), (step, shift, moved))
        return (alpha + size * step, bias + size * shift, image + size * moved), None

    start = jnp.zeros_like(targets)
    (alpha, bias, _), _ = jax.lax.scan(
        newton, (start, jnp.zeros_like(targets[0]), start), None, length=NEWTON_STEPS
    )
    return Dual(alpha, bias - bias.mean())


def _solve(gram, curvature, penalty, residual, residual_bias):
    """Solve Newton's system for a step of alpha and of the bias by conjugate gradients; also return gram @ step.

    The operator, (alpha, bias) -> (penalty alpha + D(gram alpha + bias), sum D(gram alpha + bias)), is
    symmetric and positive in the metric <a, gram b> + <bias, bias>.
    """
    zeros, zero_bias = jnp.zeros_like(residual), jnp.zeros_like(residual_bias)
    image = gram @ residual

    def advance(_, state):
        (x, xb, gx), (r, rb, gr), (p, pb, gp), square = state
        curved = curvature(gp + pb)
        q, qb = penalty * p + curved, curved.sum(axis=0)
        along = jnp.vdot(gp, q) + jnp.vdot(pb, qb)
        size = jnp.where(along > 0, square / jnp.where(along > 0, along, 1.0), 0.0)
        x, xb, gx = x + size * p, xb + size * pb, gx + size * gp
        r, rb = r - size * q, rb - size * qb
        gr = gram @ r
        following = jnp.vdot(r, gr) + jnp.vdot(rb, rb)
        ratio = jnp.where(square > 0, following / jnp.where(square > 0, square, 1.0), 0.0)
        return (x, xb, gx), (r, rb, gr), (r + ratio * p, rb + ratio * pb, gr + ratio * gp), following

    r = (residual, residual_bias, image)
    square = jnp.vdot(residual, image) + jnp.vdot(residual_bias, residual_bias)
    (x, xb, gx), *_ = jax.lax.fori_loop(
        0, CONJUGATE_STEPS, advance, ((zeros, zero_bias, zeros), r, r, square)
    )
    return x, xb, gx


def _line_search(targets, weights, penalty, state, step):
    """Return the step size of `_STEPS`, or none, whose objective is lowest."""
    (alpha, bias, image), (direction, shift, moved) = state, step

    def objective(size):
        logits = image + bias + size * (moved + shift)
        loss = -(weights * targets * jax.nn.log_softmax(logits)).sum()
        return loss + penalty / 2 * jnp.vdot(alpha + size * direction, image + size * moved)

    sizes = jnp.concatenate([_STEPS, jnp.zeros(1)])
    return sizes[jnp.argmin(jax.vmap(objective)(sizes))]
