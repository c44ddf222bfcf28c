r"""The pairwise contrastive loss of the paper, Eq. (1)-(3).

With $s$ the cosine similarity and $z_l^i$ the projection of utterance $l$ in view $i$,

$$
\ell_l^{i \to j} = -\log \frac{\exp(s(z_l^i, z_l^j) / \tau)}{\sum_m \exp(s(z_l^i, z_m^j) / \tau)}, \qquad
L^{i,j} = \frac{1}{n} \sum_l (\ell_l^{i \to j} + \ell_l^{j \to i}), \qquad
\mathcal{L} = \frac{1}{C(k, 2)} \sum_{i \ne j} L^{i,j}.
$$

The last sum runs over *ordered* pairs, as printed: every unordered pair is counted twice, and each
$L^{i,j}$ holds both directions. So for every number of views $\mathcal{L}$ is 4 times the mean of the k(k-1)
directional cross-entropies.

Eq. (1) is computed as $\log(1 + \sum_{m \ne l} \exp((s_{lm} - s_{ll}) / \tau))$, the softplus of the
log-sum-exp of the negatives less the positive. That is the same number, but it keeps its digits where the
positive wins (the textbook form then subtracts two equal numbers of size $1 / \tau$), and it is never
negative.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Num, Real

from . import blocked
from . import temperature as temperatures
from .cosine import Mask, Views, logsumexp, pairs, positives, presence, similarities, stack, unit

Temperature = Real[ArrayLike, ""] | Real[ArrayLike, "k k"]


def nt_xent(
    anchors: Num[ArrayLike, "n d"],
    candidates: Num[ArrayLike, "n d"],
    *,
    temperature: Real[ArrayLike, ""],
    mask: Mask | None = None,
) -> Float[Array, ""]:
    r"""Eq. (1), one direction between two views, as the mean over the utterances, in nats.

    $$\frac{1}{n} \sum_l -\log \frac{\exp(s(a_l, c_l) / \tau)}{\sum_m \exp(s(a_l, c_m) / \tau)}$$

    Row `l` of both is the same utterance. The negatives of an anchor are the *other rows of the candidates*.
    SimCLR's NT-Xent (`optax.losses.ntxent`, `simclr_nt_xent` here) adds the other rows of the anchors' own
    view. CLIP's loss is the mean of `nt_xent(a, c)` and `nt_xent(c, a)`. At chance it is ln n.

    Args:
        anchors: one view, `[n, d]`; any length of rows, also zero, and any float type.
        candidates: the other view, `[n, d]`.
        temperature: $\tau > 0$; may be traced.
        mask: `[n]`, False for rows that do not exist (padding), or `[2, n]` for anchors and candidates.

    Returns:
        A scalar of at least float32; 0 if no row exists.

    Raises:
        ValueError: shapes differ or do not fit, or a temperature that is a plain number is not positive.

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


# Jitted, here and below, for callers who are not: one program instead of some sixty, each of which would
# have to be compiled for every shape and would hold its n x n result.
@jax.jit
def _nt_xent(z, temperature, mask):
    tau = temperatures.shaped(temperature, z, ())
    present = presence(mask, *z.shape[:2])
    z = unit(z, present)
    (s,) = similarities(z, z)
    positive = positives(z)[0]
    negative = ~jnp.eye(s.shape[0], dtype=bool)
    if present is not None:
        negative &= present[1]
    losses = jax.nn.softplus(logsumexp((s - positive[:, None]) / tau, 1, negative))
    if present is None:
        return jnp.mean(losses)
    both = present[0] & present[1]
    return jnp.sum(jnp.where(both, losses, 0)) / jnp.maximum(jnp.sum(both), 1)


def pairwise_nt_xent(
    views: Views,
    *,
    temperature: Temperature = 0.5,
    mask: Mask | None = None,
    pair_weights: Real[ArrayLike, "k k"] | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    block_size: int | None = None,
) -> Float[Array, ""]:
    r"""Eq. (3) exactly as printed: all pairs of views, both directions, in nats.

    $$\frac{1}{C(k, 2)} \sum_{i \ne j} \frac{1}{n} \sum_l (\ell_l^{i \to j} + \ell_l^{j \to i})$$

    This is **4 times the mean of the k(k-1) directional cross-entropies**, for every k (the sum counts each
    pair twice, and each term has both directions), 4 ln n at chance. `mean_directional_ce` is that mean.
    Adam does not notice the factor.

    How it differs from what the reader may know: for two views it is 4 times CLIP's loss. SimCLR's
    (`optax.losses.ntxent`) has negatives within the view too; that is `simclr_nt_xent`. It is the "full
    graph" of CMC with the negatives of the batch instead of a memory bank.

    Args:
        views: name -> `[n, d]`, or `[k, n, d]`, k >= 2. Row `l` is the same utterance in all of them. Rows
            may have any length; a zero row has similarity 0 to everything, and zero gradient. bfloat16 and
            float16 are accumulated in float32; float64 stays float64. In the arrays `[k, ...]` below, the
            views of a mapping are in **sorted order of their names**.
        temperature: $\tau > 0$, a scalar or `[k, k]` for each direction `[anchor view, candidate view]`
            (diagonal ignored); may be traced and differentiated, see `clamped_temperature`.
        mask: `[n]`, False for padded rows, or `[k, n]`, False also where an utterance lacks a view. An
            absent row is neither anchor, positive nor negative, and what it holds (NaN, say) does not matter.
            The cross-entropy i -> j is the mean over the utterances present in *both* views, against all rows
            present in *j*. Directions without an utterance take no part in the mean over directions. So a
            masked batch costs what the smaller batch costs, without its absent rows or absent views.
        pair_weights: `[k, k]`, not negative, for each direction `[anchor view, candidate view]`; diagonal
            ignored. The mean over directions becomes $\sum w_{ij} CE_{ij} / \sum w_{ij}$, so that only
            proportions matter. All ones is the default; ones in row and column 0 alone compare all views
            with the first (CMC's "core view"); a single 1 is `4 * nt_xent`.
        axis_name: inside `jax.shard_map`, `jax.pmap` or `jax.vmap`, the mesh axis (or axes) over which the
            batch is split into equal parts. Then the negatives are those of all devices, and each device
            returns the loss of the whole batch. See "Several devices".
        block_size: None holds the k(k-1)/2 similarity matrices `[n, n]` and some more of that size for the
            gradient. A number holds tiles of `[block_size, block_size]` and computes them again for the
            gradient: O(k n d + k^2 block_size^2) memory. 512 is good on CPUs. The gradient can then be taken
            once and in reverse mode only.

    Returns:
        A scalar of at least float32; 0, with zero gradient, if nothing is present or all weights are 0.

    Raises:
        ValueError: fewer than two views, shapes that do not fit, a temperature or block size that is a plain
            number and not positive.
        NotImplementedError: a second derivative is taken through `block_size`.

    Several devices:
        Under `jax.jit` with sharded inputs there is nothing to do: write the loss of the global batch,
        without `axis_name` (and on a mesh whose axes are `AxisType.Auto`). With `axis_name`, the gradient of
        replicated parameters equals that of the global batch when taken in any of these ways:

        - outside: `jax.grad(jax.shard_map(loss, ...))`, for either `check_vma`;
        - inside `shard_map` (`check_vma=True`, the default): `jax.grad(loss)`, already summed over devices
          (a `lax.pmean` on top changes nothing);
        - inside `shard_map(check_vma=False)` or `pmap`: `lax.pmean(jax.grad(loss), axis_name)`.

        So `lax.pmean(jax.grad(loss)(params), axis_name)` is right in all three. With respect to what is
        *not* replicated (the rows themselves, or parameters cast to varying), `check_vma=True` gives the
        device's own share as it is (sum it with `psum`), the other two `axis_size` times that.

        The trap: with a *local* loss (each device's mean over its own anchors) the habit from pmap,
        `lax.pmean(jax.grad(local_loss)(params))`, is `axis_size` times too large under `check_vma=True`,
        where the gradient of replicated parameters is a sum over devices before `pmean` sees it. This
        function returns the global loss, so that the habit is right.

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
        axis_name=axis_name,
        block_size=block_size,
    )


def mean_directional_ce(
    views: Views,
    *,
    temperature: Temperature = 0.5,
    mask: Mask | None = None,
    pair_weights: Real[ArrayLike, "k k"] | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    block_size: int | None = None,
) -> Float[Array, ""]:
    r"""The mean of the k(k-1) directional cross-entropies, in nats: a quarter of Eq. (3).

    $$\frac{1}{k (k - 1)} \sum_{i \ne j} \frac{1}{n} \sum_l \ell_l^{i \to j}$$

    The scale on which chance is ln n and, for two views, CLIP's loss. Arguments, devices and errors are those
    of `pairwise_nt_xent`.

    Args:
        views: name -> `[n, d]`, or `[k, n, d]`, k >= 2.
        temperature: scalar or `[k, k]`.
        mask: `[n]` or `[k, n]`, False where a row is absent.
        pair_weights: `[k, k]`, normalised to sum 1 over the directions that take part.
        axis_name: the mesh axis over which the batch is split.
        block_size: side of the tiles that are held instead of whole matrices.

    Returns:
        A scalar of at least float32; 0, with zero gradient, if nothing is present.

    Raises:
        ValueError: as in `pairwise_nt_xent`.
        NotImplementedError: as in `pairwise_nt_xent`.

    Example:
        >>> import jax.numpy as jnp
        >>> from pcl_jax.losses import mean_directional_ce
        >>> collapsed = jnp.ones((3, 128, 16))  # all alike: the loss is chance
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
    return _mean_directional_ce(z, temperature, mask, pair_weights, axis_name, block_size)


@partial(jax.jit, static_argnames=("axis_name", "block_size"))
def _mean_directional_ce(z, temperature, mask, pair_weights, axis_name, block_size):
    k, n, _ = z.shape
    tau = jnp.broadcast_to(temperatures.shaped(temperature, z, (), (k, k)), (k, k))
    weights = jnp.ones((k, k), z.dtype) if pair_weights is None else jnp.asarray(pair_weights, z.dtype)
    if weights.shape != (k, k):
        raise ValueError(f"pair_weights must have shape [k, k] = {(k, k)}, got {weights.shape}")
    present = presence(mask, k, n)
    z = unit(z, present)

    i, j = pairs(k)
    # Adding nothing of z's kind marks the temperature as varying over the mesh axes over which z varies, as
    # JAX asks of the arguments of a custom derivative under `shard_map`.
    of_z = jnp.zeros_like(z, shape=())
    own = positives(z)
    rows = blocked.Rows(z, z, own, own, tau[i, j] + of_z, tau[j, i] + of_z, present, present, offset=0)
    if axis_name is not None:
        gather = partial(lax.all_gather, axis_name=axis_name, axis=1, tiled=True)
        rows = rows._replace(
            candidates=gather(z),
            candidate_positive=gather(own),
            candidate_present=None if present is None else gather(present),
            offset=lax.axis_index(axis_name) * n,
        )
    negatives: blocked.Negatives
    if block_size is None:
        negatives = blocked.whole(rows)
    else:
        negatives = blocked.blocked(rows, min(block_size, rows.candidates.shape[1]))
    forward, backward = negatives
    if axis_name is not None:
        backward = _over_devices(backward, axis_name)
    losses = jax.nn.softplus(jnp.stack([forward, backward]))
    both = jnp.ones((len(i), n), bool) if present is None else present[i] & present[j]
    sums, counts = jnp.sum(jnp.where(both, losses, 0), axis=2), jnp.sum(both, axis=1, dtype=z.dtype)
    if axis_name is not None:
        sums, counts = lax.psum((sums, counts), axis_name)
    weights = jnp.where(counts > 0, jnp.stack([weights[i, j], weights[j, i]]), 0)
    total = jnp.sum(weights)
    return jnp.sum(weights * sums / jnp.maximum(counts, 1)) / jnp.where(total == 0, 1, total)


def _over_devices(backward: Float[Array, "p m"], axis_name: str | tuple[str, ...]) -> Float[Array, "p n"]:
    """Completes the sums along the columns, of which each device has some rows; returns its own columns."""
    largest = lax.pmax(lax.stop_gradient(backward), axis_name)
    total = lax.psum_scatter(jnp.exp(backward - largest), axis_name, scatter_dimension=1, tiled=True)
    n = total.shape[1]
    return jnp.log(total) + lax.dynamic_slice_in_dim(largest, lax.axis_index(axis_name) * n, n, axis=1)
