"""Contrastive losses over k views: stable, memory-bounded, exact across devices.

A library of its own: it needs `jax` (and `jaxtyping`), and no other part of `pcl_jax`. Every function runs
under `jax.numpy_rank_promotion("raise")` and `jax.numpy_dtype_promotion("strict")`. Rows that are not finite
give NaN, unless a mask says that they are absent.

pairwise      nt_xent, pairwise_nt_xent, mean_directional_ce              Eq. (1)-(3)
blocked       the same sums without n x n matrices
temperature   clamped_temperature: a learnable temperature within bounds
diagnostics   retrieval_accuracy, alignment, uniformity
related       supervised_contrastive, simclr_nt_xent, sigmoid_loss
cosine        unit rows, absent rows and cosine similarities, shared by all of them
"""

from .diagnostics import alignment, retrieval_accuracy, uniformity
from .pairwise import mean_directional_ce, nt_xent, pairwise_nt_xent
from .related import sigmoid_loss, simclr_nt_xent, supervised_contrastive
from .temperature import clamped_temperature

__all__ = [
    "alignment",
    "clamped_temperature",
    "mean_directional_ce",
    "nt_xent",
    "pairwise_nt_xent",
    "retrieval_accuracy",
    "sigmoid_loss",
    "simclr_nt_xent",
    "supervised_contrastive",
    "uniformity",
]
