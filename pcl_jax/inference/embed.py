"""Embedding: clips -> the vectors that a model reads, one row each, for scikit-learn and other tools."""

from collections.abc import Iterator, Sequence

import numpy as np

from pcl_jax.features.extract import Extraction
from pcl_jax.inference.model import Model
from pcl_jax.inference.predict import batches
from pcl_jax.views import egemaps


def embeddings(
    model: Model, extraction: Extraction, numbers: Sequence[int]
) -> Iterator[tuple[Sequence[int], dict[str, np.ndarray]]]:
    """Yield numbers of clips and the columns of their vectors, some clips at a time.

    Args:
        model: Its views are the vectors; their columns are named as `pcl features export` names them.
        extraction: Vectors of the clips.
        numbers: Clips to write, in order.
    """
    for part, vectors in batches(model, extraction, numbers):
        columns: dict[str, np.ndarray] = {}
        for view, rows in vectors.items():
            names = egemaps.names() if view == "egemaps" else [f"{view}-{i}" for i in range(rows.shape[1])]
            columns |= dict(zip(names, rows.T, strict=True))
        yield part, columns
