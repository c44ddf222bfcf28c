"""Import path of version 0.1 for `uar` and `wa`, which are now in `pcl_jax.evaluation`."""

from pcl_jax.evaluation.metrics import confusion, recall, uar, wa

__all__ = ["confusion", "recall", "uar", "wa"]
