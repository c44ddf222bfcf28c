"""Metrics of predictions, statistics of repeated runs, and similarity of representations."""

from pcl_jax.evaluation.metrics import confusion, recall, uar, wa
from pcl_jax.evaluation.similarity import linear_cka, pwcca, rank

__all__ = ["confusion", "linear_cka", "pwcca", "rank", "recall", "uar", "wa"]
