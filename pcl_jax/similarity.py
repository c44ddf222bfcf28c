"""`pwcca` and `linear_cka` at the address of version 0.1; they live in `pcl_jax.evaluation`."""

from pcl_jax.evaluation.similarity import linear_cka, pwcca

__all__ = ["linear_cka", "pwcca"]
