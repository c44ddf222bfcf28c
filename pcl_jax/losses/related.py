"""Three relatives of the pairwise loss for users of K views, over the same similarities, masks and dtypes."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Real

from . import temperature as temperatures
from .cosine import Mask, Views, logsumexp, pairs, presence, similarities, stack, unit


def supervised_contrastive(
    views: Views,
    labels: Int[ArrayLike, " n"],
    *,
    temperature: Real[ArrayLike, ""] = 0.1,
    mask: Mask | None = None,
) -> Float[Array, ""]:
    r"""Supervised contrastive loss: every row of the same label, in any view, is a positive.

    $$\operatorname{mean}_a \; \frac{-1}{|P(a)|} \sum_{p \in P(a)}
      \log \frac{\exp(s(z_a, z_p) / \tau)}{\sum_{q \ne a} \exp(s(z_a, z_q) / \tau)}$$

    over all k n rows of all views as anchors `a`; $P(a)$ are the other rows with the label of `a`. This is
    $L^{sup}_{out}$ of the paper. Unlike `pairwise_nt_xent`, negatives and positives come from the anchor's
    own view too. Its authors' `SupConLoss` in torch also multiplies by $\tau / 0.07$; this does not.

    Args:
        views: name -> `[n, d]`, or `[k, n, d]`, k >= 1.
        labels: `[n]`, the class of each utterance.
        temperature: $\tau > 0$; may be traced.
        mask: `[n]` or `[k, n]`, False where a row is absent.

    Returns:
        A scalar of at least float32. Anchors without a positive take no part in the mean; 0 if none has one.

    Raises:
        ValueError: shapes do not fit, or a temperature that is a plain number is not positive.

    Example:
        >>> import jax
        >>> from pcl_jax.losses import supervised_contrastive
        >>> rows = jax.random.normal(jax.random.key(0), (1, 8, 4))
        >>> labels = jax.numpy.array([0, 0, 0, 0, 1, 1, 1, 1])
        >>> print(f"{supervised_contrastive(rows, labels, temperature=1.0):.2f}")  # over ln 7 = 1.95
        2.12

    References:
        Khosla et al., Supervised contrastive learning, NeurIPS 2020, Eq. (2).
    """
    temperatures.check_positive(temperature)
    return _supervised_contrastive(stack(views), jnp.asarray(labels), temperature, mask)


@jax.jit
def _supervised_contrastive(z, labels, temperature, mask):
    k, n, d = z.shape
    tau = temperatures.shaped(temperature, z, ())
    if labels.shape != (n,):
        raise ValueError(f"labels must have shape [n] = {(n,)}, got {labels.shape}")
    present = presence(mask, k, n)
    rows = unit(z, present).reshape(k * n, d)
    there = jnp.ones(k * n, bool) if present is None else present.reshape(k * n)
    others = there[:, None] & there[None] & ~jnp.eye(k * n, dtype=bool)
    labels = jnp.tile(labels, k)
    positives = others & (labels[:, None] == labels[None])
    logits = jnp.matmul(rows, rows.T, precision=lax.Precision.HIGHEST) / tau
    losses = logsumexp(logits, 1, others)[:, None] - logits
    counts = jnp.sum(positives, axis=1, dtype=z.dtype)
    per_anchor = jnp.sum(jnp.where(positives, losses, 0), axis=1) / jnp.maximum(counts, 1)
    return jnp.sum(per_anchor) / jnp.maximum(jnp.sum(counts > 0), 1)


def simclr_nt_xent(
    views: Views, *, temperature: Real[ArrayLike, ""] = 0.5, mask: Mask | None = None
) -> Float[Array, ""]:
    r"""SimCLR's NT-Xent, with negatives from within the view too, for K views.

    `supervised_contrastive` where every utterance is a class of its own: for two views exactly SimCLR's loss
    (`optax.losses.ntxent` with labels 0..n-1, 0..n-1), with 2 n - 2 negatives. For more views, the other
    positives of an anchor stand in its denominator.

    Args:
        views: name -> `[n, d]`, or `[k, n, d]`, k >= 2.
        temperature: $\tau > 0$; may be traced.
        mask: `[n]` or `[k, n]`, False where a row is absent.

    Returns:
        A scalar of at least float32.

    Raises:
        ValueError: shapes do not fit, or a temperature that is a plain number is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from pcl_jax.losses import simclr_nt_xent
        >>> print(f"{simclr_nt_xent(jnp.ones((2, 64, 8))):.3f} {jnp.log(127):.3f}")  # one of 127 others
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
    r"""SigLIP's loss, mean over the pairs of views: each entry of a similarity matrix is a yes or no.

    $$\frac{1}{n} \sum_{l, m} \operatorname{softplus}(-y_{lm} (s(z_l^i, z_m^j) / \tau + b)), \qquad
      y_{lm} = \pm 1 \text{ as } l = m \text{ or not}$$

    No softmax, so both directions are one, and a batch may be split anyhow. The sum over n^2 entries is
    divided by n, as in SigLIP, so the loss grows with n unless the bias learns the share of positives.

    Args:
        views: name -> `[n, d]`, or `[k, n, d]`, k >= 2.
        temperature: $\tau > 0$; SigLIP learns $\log(1/\tau)$ from $\log 10$. May be traced.
        bias: $b$; SigLIP learns it from -10. May be traced.
        mask: `[n]` or `[k, n]`, False where a row is absent; the divisor is the number of positives.

    Returns:
        A scalar of at least float32; pairs of views without a positive take no part, 0 if none has one.

    Raises:
        ValueError: shapes do not fit, or a temperature that is a plain number is not positive.

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
    tau = temperatures.shaped(temperature, z, ())
    present = presence(mask, k, n)
    z = unit(z, present)
    sign = 2 * jnp.eye(n, dtype=z.dtype) - 1
    losses = jax.nn.softplus(-sign * (similarities(z, z) / tau + jnp.asarray(bias, z.dtype)))
    there = jnp.ones((k, n), bool) if present is None else present
    i, j = pairs(k)
    losses = jnp.where(there[i][:, :, None] & there[j][:, None, :], losses, 0)
    positives = jnp.sum(there[i] & there[j], axis=1, dtype=z.dtype)
    per_pair = jnp.where(positives > 0, jnp.sum(losses, axis=(1, 2)) / jnp.maximum(positives, 1), 0)
    return jnp.sum(per_pair) / jnp.maximum(jnp.sum(positives > 0), 1)
