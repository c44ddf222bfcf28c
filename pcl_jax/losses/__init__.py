"""Contrastive losses over K views: stable, memory-bounded, exact across devices.

It needs `jax` and nothing else of this package.

pairwise      nt_xent, pairwise_nt_xent, mean_directional_ce              Eq. (1)-(3)
blocked       the same sums without the n x n matrices
temperature   clamped_temperature: learn it, within bounds
diagnostics   retrieval_accuracy, alignment, uniformity
related       supervised_contrastive, simclr_nt_xent, sigmoid_loss
cosine        what they all stand on: rows of length one, absent rows, similarities
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
