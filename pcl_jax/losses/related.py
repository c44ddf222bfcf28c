"""Related contrastive losses for k views, with the same similarities, masks and dtypes."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Real

from . import temperature as temperatures
from .cosine import (
    Mask,
    Views,
    broadcast_mask,
    logsumexp,
    normalise,
    pair_indices,
    similarities,
    stack,
)


def supervised_contrastive(
    views: Views,
    labels: Int[ArrayLike, " n"],
    *,
    temperature: Real[ArrayLike, ""] = 0.1,
    mask: Mask | None = None,
) -> Float[Array, ""]:
    r"""Compute the supervised contrastive loss: all rows of the anchor's label are positives.

    $$\operatorname{mean}_a \; \frac{-1}{|P(a)|} \sum_{p \in P(a)}
      \log \frac{\exp(s(z_a, z_p) / \tau)}{\sum_{q \ne a} \exp(s(z_a, z_q) / \tau)}$$

    The anchors `a` are all k n rows of all views. $P(a)$ are the other rows with the label of `a`, in any
    view. This is $L^{sup}_{out}$ of Khosla et al. Unlike in `pairwise_nt_xent`, the anchor's own view also
    gives negatives and positives. The authors' `SupConLoss` in PyTorch multiplies by $\tau / 0.07$; this
    function does not.

    Args:
        views: A mapping or sequence of arrays `[n, d]`, or one array `[k, n, d]`, k >= 1.
        labels: `[n]`, the class of each utterance.
        temperature: $\tau > 0$; may be traced.
        mask: `[n]` or `[k, n]`, False where a row is absent.

    Returns:
        A scalar of at least float32. Anchors without a positive are left out of the mean; 0 if all are.

    Raises:
        ValueError: If shapes do not fit, or a temperature that is a plain number is not positive.

    Example:
        >>> import jax
        >>> from pcl_jax.losses import supervised_contrastive
        >>> rows = jax.random.normal(jax.random.key(0), (1, 8, 4))
        >>> labels = jax.numpy.array([0, 0, 0, 0, 1, 1, 1, 1])
        >>> print(f"{supervised_contrastive(rows, labels, temperature=1.0):.2f}")  # chance is ln 7 = 1.95
        2.12

    References:
        Khosla et al., Supervised contrastive learning, NeurIPS 2020, Eq. (2).
    """
    temperatures.check_positive(temperature)
    return _supervised_contrastive(stack(views), jnp.asarray(labels), temperature, mask)


@jax.jit
def _supervised_contrastive(z, labels, temperature, mask):
    k, n, d = z.shape
    tau = temperatures.as_temperature(temperature, z, ())
    if labels.shape != (n,):
        raise ValueError(f"labels must have shape [n] = {(n,)}, got {labels.shape}")
    present = broadcast_mask(mask, k, n)
    rows = normalise(z, present).reshape(k * n, d)
    present = jnp.ones(k * n, bool) if present is None else present.reshape(k * n)
    compared = present[:, None] & present[None] & ~jnp.eye(k * n, dtype=bool)
    labels = jnp.tile(labels, k)
    positives = compared & (labels[:, None] == labels[None])
    logits = jnp.matmul(rows, rows.T, precision=lax.Precision.HIGHEST) / tau
    losses = logsumexp(logits, 1, compared)[:, None] - logits
    counts = jnp.sum(positives, axis=1, dtype=z.dtype)
    per_anchor = jnp.sum(jnp.where(positives, losses, 0), axis=1) / jnp.maximum(counts, 1)
    return jnp.sum(per_anchor) / jnp.maximum(jnp.sum(counts > 0, dtype=z.dtype), 1)


def simclr_nt_xent(
    views: Views, *, temperature: Real[ArrayLike, ""] = 0.5, mask: Mask | None = None
) -> Float[Array, ""]:
    r"""Compute SimCLR's NT-Xent for k views, with negatives from all views, the anchor's own included.

    $$\operatorname{mean}_a \; \frac{-1}{k - 1} \sum_{p \in P(a)}
      \log \frac{\exp(s(z_a, z_p) / \tau)}{\sum_{q \ne a} \exp(s(z_a, z_q) / \tau)}$$

    The anchors `a` are all k n rows; $P(a)$ are the k - 1 other views of the same utterance. For two views
    this is exactly `optax.losses.ntxent` with labels 0..n-1, 0..n-1, with 2 n - 2 negatives. For more views,
    the denominator also holds the other positives. `pairwise_nt_xent` has no negatives within a view.

    Args:
        views: A mapping or sequence of arrays `[n, d]`, or one array `[k, n, d]`, k >= 2.
        temperature: $\tau > 0$; may be traced.
        mask: `[n]` or `[k, n]`, False where a row is absent.

    Returns:
        A scalar of at least float32; 0 if no anchor has a positive.

    Raises:
        ValueError: If shapes do not fit, or a temperature that is a plain number is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from pcl_jax.losses import simclr_nt_xent
        >>> print(f"{simclr_nt_xent(jnp.ones((2, 64, 8))):.3f} {jnp.log(127):.3f}")  # chance
        4.844 4.844

    References:
        Chen et al., A simple framework for contrastive learning of visual representations, ICML 2020.
    """
    z = stack(views)
    return supervised_contrastive(z, jnp.arange(z.shape[1]), temperature=temperature, mask=mask)


def sigmoid_loss(
    views: Views,
    *,
    temperature: Real[ArrayLike, ""] = 0.1,
    bias: Real[ArrayLike, ""] = -10.0,
    mask: Mask | None = None,
) -> Float[Array, ""]:
    r"""Compute SigLIP's loss: a binary cross-entropy per entry of each similarity matrix.

    $$\frac{1}{n} \sum_{l, m} \operatorname{softplus}(-y_{lm} (s(z_l^i, z_m^j) / \tau + b)), \qquad
      y_{lm} = +1 \text{ if } l = m, \text{ else } -1$$

    The result is the mean over the k(k-1)/2 pairs of views; for two views it is open_clip's `SigLipLoss`.
    Without a softmax, both directions of a pair are the same number. The sum over n^2 entries is divided by
    n, as in SigLIP, so the loss grows with n unless the bias learns the share of positives.

    Args:
        views: A mapping or sequence of arrays `[n, d]`, or one array `[k, n, d]`, k >= 2.
        temperature: $\tau > 0$; SigLIP learns $\log(1/\tau)$ from $\log 10$. May be traced.
        bias: $b$; SigLIP learns it from -10. May be traced.
        mask: `[n]` or `[k, n]`, False where a row is absent; the divisor is the number of positives.

    Returns:
        A scalar of at least float32. Pairs of views without a positive are left out of the mean; 0 if all
        are.

    Raises:
        ValueError: If shapes do not fit, or a temperature that is a plain number is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from pcl_jax.losses import sigmoid_loss
        >>> unrelated = jnp.eye(8)[None].repeat(2, 0).at[1].multiply(-1)
        >>> print(f"{sigmoid_loss(unrelated, temperature=1.0, bias=0.0):.3f}")
        6.165

    References:
        Zhai et al., Sigmoid loss for language image pre-training, ICCV 2023, Algorithm 1.
    """
    temperatures.check_positive(temperature)
    z = stack(views)
    if len(z) < 2:
        raise ValueError(f"a pairwise loss needs at least two views, got {len(z)}")
    return _sigmoid_loss(z, temperature, bias, mask)


@jax.jit
def _sigmoid_loss(z, temperature, bias, mask):
    k, n, _ = z.shape
    tau = temperatures.as_temperature(temperature, z, ())
    present = broadcast_mask(mask, k, n)
    z = normalise(z, present)
    sign = 2 * jnp.eye(n, dtype=z.dtype)[None] - 1
    losses = jax.nn.softplus(-sign * (similarities(z, z) / tau + jnp.asarray(bias, z.dtype)))
    present = jnp.ones((k, n), bool) if present is None else present
    i, j = pair_indices(k)
    losses = jnp.where(present[i][:, :, None] & present[j][:, None, :], losses, 0)
    positives = jnp.sum(present[i] & present[j], axis=1, dtype=z.dtype)
    per_pair = jnp.where(positives > 0, jnp.sum(losses, axis=(1, 2)) / jnp.maximum(positives, 1), 0)
    return jnp.sum(per_pair) / jnp.maximum(jnp.sum(positives > 0, dtype=z.dtype), 1)
