r"""The pairwise contrastive loss of the Pairwise-CL paper, Eq. (1)-(3).

With $s$ the cosine similarity and $z_l^i$ the projection of utterance $l$ in view $i$,

$$
\ell_l^{i \to j} = -\log \frac{\exp(s(z_l^i, z_l^j) / \tau)}{\sum_m \exp(s(z_l^i, z_m^j) / \tau)}, \qquad
L^{i,j} = \frac{1}{n} \sum_l (\ell_l^{i \to j} + \ell_l^{j \to i}), \qquad
\mathcal{L} = \frac{1}{C(k, 2)} \sum_{i \ne j} L^{i,j}.
$$

The last sum runs over *ordered* pairs, as printed: every unordered pair is counted twice, and each
$L^{i,j}$ holds both directions. So for every number of views $\mathcal{L}$ is 4 times the mean of the k(k-1)
directional cross-entropies.

Eq. (1) is computed as $\log(1 + \sum_{m \ne l} \exp((s_{lm} - s_{ll}) / \tau))$: the softplus of
the negatives' log-sum-exp minus the positive's logit. The number is the same, and never negative. Where the
positive wins, it keeps its digits; the textbook form then subtracts two nearly equal numbers of size
$1 / \tau$.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Num, Real

from . import blocked
from . import temperature as temperatures
from .cosine import (
    Mask,
    Views,
    broadcast_mask,
    logsumexp,
    normalise,
    pair_indices,
    positive_similarities,
    similarities,
    stack,
)

Temperature = Real[ArrayLike, ""] | Real[ArrayLike, "k k"]


def nt_xent(
    anchors: Num[ArrayLike, "n d"],
    candidates: Num[ArrayLike, "n d"],
    *,
    temperature: Real[ArrayLike, ""],
    mask: Mask | None = None,
) -> Float[Array, ""]:
    r"""Compute Eq. (1): the cross-entropy of one direction between two views, in nats.

    $$\frac{1}{n} \sum_l -\log \frac{\exp(s(a_l, c_l) / \tau)}{\sum_m \exp(s(a_l, c_m) / \tau)}$$

    Row `l` of both arguments is the same utterance. The negatives of an anchor are the *other rows of the
    candidates*. SimCLR's NT-Xent (`optax.losses.ntxent`, or `simclr_nt_xent` in this module) also counts the
    other rows of the anchors. The loss of CLIP (open_clip's `ClipLoss`) is the mean of `nt_xent(a, c)` and
    `nt_xent(c, a)`. Chance is ln n.

    Args:
        anchors: One view, `[n, d]`, of any float type. Rows may have any length, zero included.
        candidates: The other view, `[n, d]`.
        temperature: $\tau > 0$; may be traced.
        mask: `[n]`, False for rows that are absent (padding), or `[2, n]` for anchors and candidates.

    Returns:
        A scalar of at least float32; 0, with zero gradient, if there are no rows or all are absent.

    Raises:
        ValueError: If shapes differ or do not fit, or a temperature that is a plain number is not positive.

    Example:
        >>> import jax
        >>> from pcl_jax.losses import nt_xent
        >>> a, c = jax.random.normal(jax.random.key(0), (2, 128, 16))
        >>> print(f"{nt_xent(a, c, temperature=0.5):.2f}")  # unrelated, so about ln 128 = 4.85
        5.06
        >>> print(f"{nt_xent(a, a, temperature=0.05):.2f}")
        0.00

    References:
        The paper, Eq. (1); Chen et al., SimCLR, ICML 2020; van den Oord et al., CPC, 2018.
    """
    temperatures.check_positive(temperature)
    return _nt_xent(stack({"anchors": anchors, "candidates": candidates}), temperature, mask)


# Jitted, here and below, for callers who are not. It is one program instead of some sixty, each of which
# would be compiled for every shape and would hold its n x n result.
@jax.jit
def _nt_xent(z, temperature, mask):
    tau = temperatures.as_temperature(temperature, z, ())
    present = broadcast_mask(mask, *z.shape[:2])
    z = normalise(z, present)
    (s,) = similarities(z, z)
    positive = positive_similarities(z)[0]
    is_negative = ~jnp.eye(s.shape[0], dtype=bool)
    if present is not None:
        is_negative &= present[1][None]
    losses = jax.nn.softplus(logsumexp((s - positive[:, None]) / tau, 1, is_negative))
    both = jnp.ones(losses.shape, bool) if present is None else present[0] & present[1]
    return jnp.sum(jnp.where(both, losses, 0)) / jnp.maximum(jnp.sum(both, dtype=z.dtype), 1)


def pairwise_nt_xent(
    views: Views,
    *,
    temperature: Temperature = 0.5,
    mask: Mask | None = None,
    pair_weights: Real[ArrayLike, "k k"] | None = None,
    groups: Int[ArrayLike, " n"] | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    block_size: int | None = None,
) -> Float[Array, ""]:
    r"""Compute Eq. (3) exactly as printed: all pairs of views, both directions, in nats.

    $$\frac{1}{C(k, 2)} \sum_{i \ne j} \frac{1}{n} \sum_l (\ell_l^{i \to j} + \ell_l^{j \to i})$$

    This is **4 times the mean of the k(k-1) directional cross-entropies** for every k, because the sum counts
    each pair twice and each term has both directions. Chance is 4 ln n. `mean_directional_ce` is the mean
    itself. Adam is invariant to the factor, up to its epsilon.

    Differences from related losses:

    - CLIP (open_clip's `ClipLoss`): for two views this is 4 times that loss.
    - SimCLR (`optax.losses.ntxent`): it also takes negatives from the anchor's own view; see
      `simclr_nt_xent`.
    - CMC: this is its "full graph", with the negatives of the batch instead of a memory bank.

    Args:
        views: A mapping or sequence of arrays `[n, d]`, or one array `[k, n, d]`, k >= 2. Row `l` is the same
            utterance in all views. Rows may have any length; a zero row has similarity 0 to every row, and
            zero gradient. bfloat16 and float16 are accumulated in float32; float64 stays float64. In the
            arrays `[k, ...]` below, the views of a mapping are in **sorted order of their names**.
        temperature: $\tau > 0$, a scalar, or `[k, k]` with one value per direction `[anchor view, candidate
            view]` (diagonal ignored). May be traced and differentiated, see `clamped_temperature`.
        mask: `[n]`, False for padded rows, or `[k, n]`, False also where an utterance lacks a view. An
            absent row is neither anchor, positive nor negative, and its content (even NaN) does not matter.
            The cross-entropy i -> j is the mean over the utterances present in *both* views, against all rows
            present in *j*. A direction without such an utterance is left out of the mean over directions.
            So a masked batch costs as much as the smaller batch without its absent rows or absent views.
        pair_weights: `[k, k]`, not negative, one per direction `[anchor view, candidate view]`; diagonal
            ignored. The mean over directions becomes $\sum w_{ij} CE_{ij} / \sum w_{ij}$, so that only
            proportions matter. The default is all ones. Ones in row 0 and column 0 only compare all views
            with the first (CMC's "core view"); a single 1 gives `4 * nt_xent`.
        groups: `[n]`, the group of each row, its speaker for example: the negatives of an anchor are then the
            other rows of its group alone, so that what tells groups apart does not help to tell rows apart. A
            row that is alone in its group has no negatives, and loss 0. Chance is the mean of the ln of the
            groups' sizes. One group for all is the loss without groups.
        axis_name: The mesh axis (or axes) of `jax.shard_map`, `jax.pmap` or `jax.vmap` over which the batch
            is split into equal parts. The negatives are then those of all devices, and each device returns
            the loss of the whole batch. See "Several devices".
        block_size: None holds the k(k-1)/2 similarity matrices `[n, n]`, and several more of that size for
            the gradient. A number holds tiles `[block_size, block_size]` and computes them again for the
            gradient: O(k n d + k^2 block_size^2) memory. 512 is a good value on CPUs. The gradient can then
            be taken only once, and only in reverse mode.

    Returns:
        A scalar of at least float32; 0, with zero gradient, if there are no rows, if all are absent or if all
        weights are 0.

    Raises:
        ValueError: If there are fewer than two views, if shapes do not fit, or if a temperature or block size
            that is a plain number is not positive.
        NotImplementedError: If a second derivative is taken through `block_size`.

    Several devices:
        Under `jax.jit` with sharded inputs nothing is needed: write the loss of the global batch without
        `axis_name`, on a mesh whose axes are `AxisType.Auto`. With `axis_name`, the gradient of replicated
        parameters equals that of the global batch in each of these forms:

        - outside: `jax.grad(jax.shard_map(loss, ...))`, for either `check_vma`;
        - inside `shard_map` (`check_vma=True`, the default): `jax.grad(loss)`, already summed over devices
          (a further `lax.pmean` changes nothing);
        - inside `shard_map(check_vma=False)` or `pmap`: `lax.pmean(jax.grad(loss), axis_name)`.

        So `lax.pmean(jax.grad(loss)(params), axis_name)` is right in all three. Inputs that are *not*
        replicated (the rows, or parameters cast to varying) differ: `check_vma=True` gives each device's
        share of the gradient (sum it with `psum`), the other two give `axis_size` times that share.

        One trap: with a *local* loss (each device's mean over its anchors), the habit from `pmap`,
        `lax.pmean(jax.grad(local_loss)(params))`, is `axis_size` times too large under `check_vma=True`.
        There the gradient of replicated parameters is summed over devices before `pmean` sees it. This
        function returns the global loss, for which the habit is right.

    Example:
        >>> import jax
        >>> from pcl_jax.losses import pairwise_nt_xent
        >>> text, image, sound = jax.random.normal(jax.random.key(0), (3, 64, 16))
        >>> loss = pairwise_nt_xent({"text": text, "image": image, "sound": sound}, temperature=0.5)
        >>> print(f"{loss:.2f}")  # a little over chance, 4 ln 64 = 16.64
        17.25
        >>> blocked = pairwise_nt_xent(jax.numpy.stack([image, sound, text]), block_size=16)
        >>> print(f"{blocked:.2f}")
        17.25

    References:
        The paper, Eq. (1)-(3); Tian et al., Contrastive multiview coding, ECCV 2020; Radford et al., CLIP,
        ICML 2021; https://docs.jax.dev/en/latest/notebooks/shard_map.html on `check_vma`.
    """
    return 4 * mean_directional_ce(
        views,
        temperature=temperature,
        mask=mask,
        pair_weights=pair_weights,
        groups=groups,
        axis_name=axis_name,
        block_size=block_size,
    )


def mean_directional_ce(
    views: Views,
    *,
    temperature: Temperature = 0.5,
    mask: Mask | None = None,
    pair_weights: Real[ArrayLike, "k k"] | None = None,
    groups: Int[ArrayLike, " n"] | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    block_size: int | None = None,
) -> Float[Array, ""]:
    r"""Compute the mean of the k(k-1) directional cross-entropies, in nats: a quarter of Eq. (3).

    $$\frac{1}{k (k - 1)} \sum_{i \ne j} \frac{1}{n} \sum_l \ell_l^{i \to j}$$

    On this scale chance is ln n. For two views it is the loss of CLIP (open_clip's `ClipLoss`).
    `pairwise_nt_xent` describes the arguments and several devices in full.

    Args:
        views: A mapping or sequence of arrays `[n, d]`, or one array `[k, n, d]`, k >= 2.
        temperature: $\tau > 0$, a scalar or `[k, k]`.
        mask: `[n]` or `[k, n]`, False where a row is absent.
        pair_weights: `[k, k]`, one per direction; only proportions matter.
        groups: `[n]`, the group of each row; negatives are of the anchor's group.
        axis_name: The mesh axis over which the batch is split.
        block_size: Side of the tiles that are held instead of whole matrices.

    Returns:
        A scalar of at least float32; 0, with zero gradient, if there are no rows, if all are absent or if all
        weights are 0.

    Raises:
        ValueError: As `pairwise_nt_xent`.
        NotImplementedError: As `pairwise_nt_xent`.

    Example:
        >>> import jax.numpy as jnp
        >>> from pcl_jax.losses import mean_directional_ce
        >>> collapsed = jnp.ones((3, 128, 16))  # all rows equal: the loss of chance
        >>> print(f"{mean_directional_ce(collapsed):.3f} {jnp.log(128):.3f}")
        4.852 4.852

    References:
        The paper, Eq. (1)-(3).
    """
    temperatures.check_positive(temperature)
    if block_size is not None and block_size < 1:
        raise ValueError(f"block_size must be positive or None, got {block_size}")
    z = stack(views)
    if len(z) < 2:
        raise ValueError(f"a pairwise loss needs at least two views, got {len(z)}")
    return _mean_directional_ce(z, temperature, mask, pair_weights, groups, axis_name, block_size)


@partial(jax.jit, static_argnames=("axis_name", "block_size"))
def _mean_directional_ce(z, temperature, mask, pair_weights, groups, axis_name, block_size):
    k, n, _ = z.shape
    tau = jnp.broadcast_to(temperatures.as_temperature(temperature, z, (), (k, k)), (k, k))
    weights = jnp.ones((k, k), z.dtype) if pair_weights is None else jnp.asarray(pair_weights, z.dtype)
    if weights.shape != (k, k):
        raise ValueError(f"pair_weights must have shape [k, k] = {(k, k)}, got {weights.shape}")
    if groups is not None:
        groups = jnp.asarray(groups)
        if groups.shape != (n,):
            raise ValueError(f"groups must have shape [n] = {(n,)}, got {groups.shape}")
    present = broadcast_mask(mask, k, n)
    z = normalise(z, present)

    i, j = pair_indices(k)
    # Adding a zero made from z marks the temperature as varying over the same mesh axes as z. JAX requires
    # that of the arguments of a custom derivative under `shard_map`.
    zero = jnp.zeros_like(z, shape=())
    positive = positive_similarities(z)
    rows = blocked.Rows(
        anchors=z,
        candidates=z,
        anchor_positive=positive,
        candidate_positive=positive,
        forward_temperature=tau[i, j] + zero,
        backward_temperature=tau[j, i] + zero,
        anchor_present=present,
        candidate_present=present,
        offset=0,
        anchor_group=groups,
        candidate_group=groups,
    )
    if axis_name is not None:
        gather = partial(lax.all_gather, axis_name=axis_name, axis=1, tiled=True)
        rows = rows._replace(
            candidates=gather(z),
            candidate_positive=gather(positive),
            candidate_present=None if present is None else gather(present),
            candidate_group=None if groups is None else lax.all_gather(groups, axis_name, tiled=True),
            offset=lax.axis_index(axis_name).astype(int) * n,
        )
    negatives: blocked.Negatives
    # Without rows there is nothing to hold in blocks, and no block fits.
    if block_size is None or n == 0:
        negatives = blocked.sum_negatives(rows)
    else:
        negatives = blocked.sum_negatives_blocked(rows, min(block_size, rows.candidates.shape[1]))
    forward, backward = negatives
    if axis_name is not None:
        backward = _sum_over_devices(backward, axis_name)
    losses = jax.nn.softplus(jnp.stack([forward, backward]))
    both = jnp.ones((len(i), n), bool) if present is None else present[i] & present[j]
    sums, counts = jnp.sum(jnp.where(both, losses, 0), axis=2), jnp.sum(both, axis=1, dtype=z.dtype)
    if axis_name is not None:
        sums, counts = lax.psum((sums, counts), axis_name)
    weights = jnp.where((counts > 0)[None], jnp.stack([weights[i, j], weights[j, i]]), 0)
    total = jnp.sum(weights)
    return jnp.sum(weights * sums / jnp.maximum(counts, 1)[None]) / jnp.where(total == 0, 1, total)


def _sum_over_devices(backward: Float[Array, "p m"], axis_name: str | tuple[str, ...]) -> Float[Array, "p n"]:
    """Complete the sums over rows that are split over the devices; return the columns of this device."""
    largest = lax.pmax(lax.stop_gradient(backward), axis_name)
    total = lax.psum_scatter(jnp.exp(backward - largest), axis_name, scatter_dimension=1, tiled=True)
    n = total.shape[1]
    return jnp.log(total) + lax.dynamic_slice_in_dim(largest, lax.axis_index(axis_name) * n, n, axis=1)
