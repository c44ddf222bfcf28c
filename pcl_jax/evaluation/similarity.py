"""Similarity of two views' representations: PWCCA (paper, section 4.3) and linear CKA."""

import numpy as np
from jaxtyping import Float

from pcl_jax.arrays import Array

RANK_TOLERANCE = 1e-6
"""Relative singular value below which a direction is dropped, as those of dead ReLU units."""


def pwcca(x: Float[Array, "n d1"], y: Float[Array, "n2 d2"]) -> float:
    r"""Compute the projection-weighted canonical correlation of `x` with `y`.

    $$\mathrm{PWCCA} = \frac{\sum_i \alpha_i \rho_i}{\sum_i \alpha_i}, \qquad
      \alpha_i = \sum_j \lvert \langle h_i, x_j \rangle \rvert$$

    Here $\rho_i$ are the canonical correlations, $h_i$ the orthonormal canonical variates of `x` and $x_j$
    its columns, all centred. The computation is by singular value decompositions in float64. PWCCA is not
    symmetric, because the weights come from `x`: report both orders. google/svcca's `compute_pwcca` uses
    different directions for $h_i$, and fails if the first argument has the greater rank.

    Independent random data score well above zero, the higher the fewer utterances: about 0.295 for
    n = 1085 and 128 against 128 dimensions. Always report this baseline next to the score, for random data of
    the same ranks (see `rank`).

    Where the ranks sum to more than n - 1, some canonical correlations are 1 for any data: 84 of 128 for
    128 against 128 dimensions and n = 173. Such a score says more about n than about the data, so it is
    refused. `linear_cka` has no such limit.

    Args:
        x: Representations of n utterances, `[n, d1]`.
        y: Representations of the same utterances in the same order, `[n, d2]`.

    Returns:
        A score in [0, 1].

    Raises:
        ValueError: If the numbers of utterances differ, if the ranks of `x` and `y` sum to more than n - 1,
            if a value is not finite, or if an argument is constant.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(50, 3))
        >>> round(pwcca(x, x @ [[2.0, 1, 0], [0, 1, 0], [0, 3, 1]] + 7), 6)
        1.0

    References:
        Morcos, Raghu and Bengio, Insights on representational similarity in neural networks with canonical
        correlation, NeurIPS 2018, section 3.
    """
    if len(x) != len(y):
        raise ValueError(
            f"x has {len(x)} utterances, y has {len(y)}; pass the same utterances in the same order"
        )
    centred, basis_x = _centre_and_span(x, "x")
    _, basis_y = _centre_and_span(y, "y")
    ranks = basis_x.shape[1], basis_y.shape[1]
    if not all(ranks):
        raise ValueError(f"{'x' if not ranks[0] else 'y'} is constant (rank 0); PWCCA is undefined")
    # In n - 1 centred dimensions, two spaces share at least this many directions.
    forced = sum(ranks) - (len(x) - 1)
    if forced > 0:
        raise ValueError(
            f"x has rank {ranks[0]} and y rank {ranks[1]} for {len(x)} utterances: "
            f"{min(forced, *ranks)} of the {min(ranks)} correlations are 1 for any data; "
            "use more utterances or fewer dimensions"
        )
    left, correlations, _ = np.linalg.svd(basis_x.T @ basis_y, full_matrices=False)
    variates = basis_x @ left
    weights = np.abs(variates.T @ centred).sum(axis=1)
    return float(weights @ np.minimum(correlations, 1) / weights.sum())


def rank(x: Float[Array, "n d"]) -> int:
    """Compute the rank of centred representations, as `pwcca` counts it.

    A random baseline for `pwcca` needs the same ranks as the data: networks with ReLU units have dead and
    dependent ones, so the rank is often less than the number of dimensions.

    Args:
        x: Representations of n utterances, `[n, d]`.

    Returns:
        The number of singular values above `RANK_TOLERANCE` times the largest; 0 for constant `x`.

    Raises:
        ValueError: If a value is not finite.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(50, 3))
        >>> rank(np.concatenate([x, x[:, :1], np.zeros((50, 2))], axis=1))
        3
    """
    return _centre_and_span(x, "x")[1].shape[1]


def _centre_and_span(
    x: Float[Array, "n d"], name: str
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n rank"]]:
    """Centre the columns in float64; return them and an orthonormal basis of their span."""
    centred = np.asarray(x, np.float64)
    if not np.isfinite(centred).all():
        raise ValueError(f"{name} holds values that are not finite")
    centred = centred - centred.mean(axis=0)
    basis, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    return centred, basis[:, : np.count_nonzero(sizes > RANK_TOLERANCE * sizes[:1])]


def linear_cka(x: Float[Array, "n d1"], y: Float[Array, "n2 d2"]) -> float:
    r"""Compute the linear centred kernel alignment of `x` and `y`.

    $$\mathrm{CKA} = \frac{\lVert X^\top Y \rVert_F^2}
      {\lVert X^\top X \rVert_F \lVert Y^\top Y \rVert_F}$$

    with centred columns. It complements PWCCA, because it has other invariances: it weighs directions by
    their variance, is symmetric, and changes with an invertible map but not with a rotation or a common
    scale. It does not rise to 1 as the number of dimensions approaches that of utterances; independent data
    score about d / n.

    Args:
        x: Representations of n utterances, `[n, d1]`.
        y: Representations of the same utterances in the same order, `[n, d2]`.

    Returns:
        A score in [0, 1].

    Raises:
        ValueError: If the numbers of utterances differ, a value is not finite, or an argument is constant.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(50, 3))
        >>> round(linear_cka(x, 2 * x[:, ::-1] + 7), 6)
        1.0

    References:
        Kornblith et al., Similarity of neural network representations revisited, ICML 2019, Eq. (4).
    """
    if len(x) != len(y):
        raise ValueError(
            f"x has {len(x)} utterances, y has {len(y)}; pass the same utterances in the same order"
        )
    x, y = (np.asarray(a, np.float64) - np.mean(a, axis=0, dtype=np.float64) for a in (x, y))
    size = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    if not 0 < size < np.inf:
        raise ValueError("x or y is constant or holds values that are not finite; CKA is undefined")
    return float(np.linalg.norm(x.T @ y) ** 2 / size)
