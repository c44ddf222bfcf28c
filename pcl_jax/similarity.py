"""Import path of version 0.1 for `pwcca` and `linear_cka`, which are now in `pcl_jax.evaluation`."""

from pcl_jax.evaluation.similarity import linear_cka, pwcca

__all__ = ["linear_cka", "pwcca"]
