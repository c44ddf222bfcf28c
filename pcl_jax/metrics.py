"""`uar` and `wa` at the address of version 0.1; they live in `pcl_jax.evaluation`."""

from pcl_jax.evaluation.metrics import confusion, recall, uar, wa

__all__ = ["confusion", "recall", "uar", "wa"]
