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
    n = 1085 and 128 against 128 dimensions. Always report this baseline next to the score.

    Args:
        x: Representations of n utterances, `[n, d1]`.
        y: Representations of the same utterances in the same order, `[n, d2]`.

    Returns:
        A score in [0, 1].

    Raises:
        ValueError: If the numbers of utterances differ, if there are no more utterances than dimensions
            (any two spaces then correlate perfectly), if a value is not finite, or if an argument is
            constant.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(50, 3))
        >>> round(pwcca(x, x @ [[2.0, 1, 0], [0, 1, 0], [0, 3, 1]] + 7), 6)
        1.0

    References:
        Morcos, Raghu and Bengio, Insights on representational similarity in neural networks with canonical
        correlation, NeurIPS 2018, section 3.
    """
    bases, centred = [], []
    for name, array in (("x", x), ("y", y)):
        a = np.asarray(array, np.float64)
        if len(a) != len(x):
            raise ValueError(
                f"x has {len(x)} utterances, y has {len(y)}; pass the same utterances in the same order"
            )
        if not np.isfinite(a).all():
            raise ValueError(f"{name} holds values that are not finite")
        a = a - a.mean(axis=0)
        u, s, _ = np.linalg.svd(a, full_matrices=False)
        rank = int((s > RANK_TOLERANCE * s[0]).sum()) if s.size and s[0] > 0 else 0
        if not 0 < rank < len(a) - 1:
            raise ValueError(
                f"{name} has rank {rank} for {len(a)} utterances: rank 0 is a constant, and {len(a) - 1} or "
                "more correlates perfectly with any data; use more utterances or fewer dimensions"
            )
        bases.append(u[:, :rank])
        centred.append(a)
    left, correlations, _ = np.linalg.svd(bases[0].T @ bases[1], full_matrices=False)
    variates = bases[0] @ left
    weights = np.abs(variates.T @ centred[0]).sum(axis=1)
    return float(weights @ np.minimum(correlations, 1) / weights.sum())


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
