r"""Batched multinomial logistic regression in dual form: thousands of small fits as one program.

With few labels there are far fewer rows than features, so a fit works on the rows' Gram matrix $G = X X^\top$
alone, which all repeats, subsets and rounds share. It solves the problem of scikit-learn's
`LogisticRegression` with `C = 1 / penalty` and sample weights, an unpenalised intercept included: by the
representer theorem the weight matrix is $X^\top \alpha$.

$$\min_{\alpha, b} \; \sum_i v_i \, \mathrm{CE}(y_i, \mathrm{softmax}(G_i \alpha + b))
  + \tfrac{\lambda}{2} \mathrm{tr}(\alpha^\top G \alpha)$$

Newton's method, each step by conjugate gradients in the metric of $G$ and with a line search. All counts are
fixed, so that `vmap` runs many fits in step. Pure: arrays in, arrays out.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from pcl_jax.arrays import Array


class Steps(NamedTuple):
    """Work of one fit: Newton steps, and conjugate-gradient steps within each."""

    newton: int
    conjugate: int


EXACT = Steps(12, 24)
"""Within 1e-4 of scikit-learn's log-probabilities (tests/training/test_readout.py)."""
ROUGH = Steps(3, 8)
"""Enough to rank utterances by confidence, from the parameters of a similar fit, in rounds of co-training."""

PADDING = 16
"""`fit_all` pads rows to a multiple, so that subsets of similar sizes share their programs."""
STEP_SIZES = (1.0, 0.5, 0.25, 0.125, 0.03125, 0.0)
"""Sizes that the line search tries, zero last. Whole steps alone can diverge where classes are separable."""


ROUNDING = 1e-14
"""About the square of the relative rounding of float32."""


class Dual(NamedTuple):
    """A fitted readout in dual form; the logits of new rows are `gram(new, rows) @ alpha + bias`."""

    alpha: Float[Array, "... n c"]
    bias: Float[Array, "... c"]


def fit(
    gram: Float[Array, "n n"],
    targets: Float[Array, "n c"],
    weights: Float[Array, " n"],
    penalty: Float[Array, ""] | float,
    steps: Steps = EXACT,
    start: Dual | None = None,
) -> Dual:
    """Fit one readout; `jax.vmap` fits many.

    Args:
        gram: Inner products of the rows.
        targets: Distribution over the classes for each row: one-hot for a label, any for a pseudo-label.
        weights: Weight of each row's loss. A row of weight zero, padding for example, has no influence.
        penalty: Factor of half the squared norm, 1 / C in scikit-learn's terms.
        steps: Work to be done.
        start: Parameters to begin with, those of a similar fit for example; zero if None.

    Returns:
        The parameters. The biases sum to zero. `alpha` is zero in rows of weight zero, unless `start` is not
        and there are too few steps to forget it.
    """

    def newton(state: tuple[Array, Array, Array], _: None) -> tuple[tuple[Array, Array, Array], None]:
        alpha, bias, image = state  # image = gram @ alpha
        p = jax.nn.softmax(image + bias)

        def curvature(logits: Array) -> Array:
            """Apply the second derivative of the loss in the logits."""
            pushed = p * logits
            return weights[:, None] * (pushed - p * pushed.sum(axis=1, keepdims=True))

        slope = weights[:, None] * (targets - p)
        right = (slope - penalty * alpha, slope.sum(axis=0))
        step = _conjugate_gradients(gram, curvature, penalty, right, floor, steps.conjugate)
        size = _line_search(targets, weights, penalty, state, step)
        alpha, bias = alpha + size * step[0], bias + size * step[1]
        return (alpha, bias, gram @ alpha), None  # image + size * step[2] would add up rounding errors

    start = Dual(jnp.zeros_like(targets), jnp.zeros_like(targets[0])) if start is None else start
    scale = weights[:, None] * targets
    floor = ROUNDING * jnp.vdot(scale, gram @ scale)
    state = start.alpha, start.bias, gram @ start.alpha
    (alpha, bias, _), _ = jax.lax.scan(newton, state, None, length=steps.newton)
    return Dual(alpha, bias - bias.mean())


def logits(dual: Dual, gram: Float[Array, "... m n"]) -> Float[Array, "... m c"]:
    """Return the logits of rows whose inner products with the fitted rows are given."""
    return gram @ dual.alpha + dual.bias[..., None, :]


def fit_all(
    grams: Float[np.ndarray, "k l l"],
    labels: Int[np.ndarray, " l"],
    kept: Float[np.ndarray, "g l"],
    classes: int,
    penalty: float,
) -> Dual:
    """Fit a readout of each view on each weighting of the same rows, as one program.

    Args:
        grams: Inner products of the rows in each view.
        labels: Class of each row.
        kept: Weights of the rows, one line for each fit.
        classes: Number of classes.
        penalty: As in `fit`.

    Returns:
        Parameters `[k, g, l, c]` and `[k, g, c]`.
    """
    count = len(labels)
    size = -(-count // PADDING) * PADDING
    padded = np.zeros((len(grams), size, size), np.float32)
    padded[:, :count, :count] = grams
    weights = np.zeros((len(kept), size), np.float32)
    weights[:, :count] = kept
    one_hot = np.zeros((size, classes), np.float32)
    one_hot[np.arange(count), labels] = 1
    alpha, bias = _fit_all(padded, one_hot, weights, penalty)
    return Dual(np.asarray(alpha)[:, :, :count], np.asarray(bias))


@partial(jax.jit, static_argnames="penalty")
def _fit_all(grams, one_hot, weights, penalty):
    by_weights = jax.vmap(fit, in_axes=(None, None, 0, None))
    return jax.vmap(by_weights, in_axes=(0, None, None, None))(grams, one_hot, weights, penalty)


def _conjugate_gradients(gram, curvature, penalty, right, floor, count):
    """Solve Newton's system; return the steps of alpha and of the bias, and `gram @` the former.

    The operator, (a, b) -> (penalty a + D(gram a + b), sum of D(gram a + b)) with D the curvature, is
    symmetric and positive in the metric <a, gram a'> + <b, b'>. One product with `gram` per step suffices.
    A residual whose square is below `floor` is rounding, and following it would lead away.
    """

    def divide(a: Array, b: Array) -> Array:
        return jnp.where(b > 0, a / jnp.where(b > 0, b, 1.0), 0.0)

    def advance(_, state):
        x, (r, rb, _), (p, pb, gp), square = state
        curved = curvature(gp + pb)
        q, qb = penalty * p + curved, curved.sum(axis=0)
        size = divide(square, jnp.vdot(gp, q) + jnp.vdot(pb, qb)) * (square > floor)
        x = (x[0] + size * p, x[1] + size * pb, x[2] + size * gp)
        r, rb = r - size * q, rb - size * qb
        gr = gram @ r
        following = jnp.vdot(r, gr) + jnp.vdot(rb, rb)
        ratio = divide(following, square)
        return x, (r, rb, gr), (r + ratio * p, rb + ratio * pb, gr + ratio * gp), following

    residual, residual_bias = right
    r = (residual, residual_bias, gram @ residual)
    square = jnp.vdot(residual, r[2]) + jnp.vdot(residual_bias, residual_bias)
    zero = jax.tree.map(jnp.zeros_like, r)
    return jax.lax.fori_loop(0, count, advance, (zero, r, r, square))[0]


def _line_search(targets, weights, penalty, state, step):
    """Return the largest step size that does not raise the objective, up to rounding.

    The lowest objective would be no better a choice: near the optimum float32 tells objectives apart only
    where parameters differ by more than a thousandth, while the step itself is far more exact.
    """
    (alpha, bias, image), (direction, shift, moved) = state, step

    def objective(size: Array) -> Array:
        scores = jax.nn.log_softmax(image + bias + size * (moved + shift))
        loss = -(weights[:, None] * targets * scores).sum()
        return loss + penalty / 2 * jnp.vdot(alpha + size * direction, image + size * moved)

    sizes = jnp.array(STEP_SIZES, targets.dtype)
    values = jax.vmap(objective)(sizes)
    return sizes[jnp.argmax(values <= values[-1] + 1e-6 * jnp.abs(values[-1]))]
