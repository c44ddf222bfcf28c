"""One module per item of the paper: `python -m experiments.NAME --help`."""

EXPERIMENTS = (
    "temperature",
    "freezing",
    "alignment",
    "model_sizes",
    "sparse_labels",
    "pretraining_data",
    "embeddings",
    "views_ablation",
    "few_labels",
)
"""Modules of this package that hold an `EXPERIMENT`, in the order of the report."""
