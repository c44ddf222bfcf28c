"""Utterances that methods for few labels read, and what follows from them without any label."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from pcl_jax.rng import seeded
from pcl_jax.training.classifier import Normalise, Vectors, by_speaker, moments

MOST_UNLABELLED = 2000
"""Unlabelled utterances that take part, drawn at random where there are more: time grows with the square."""
ROWS = 128
"""Utterances are padded to a multiple, so that folds of similar sizes share their programs."""


class Standardised(NamedTuple):
    """Vectors of squared norm about 1, under one normalisation."""

    x: Vectors
    mean: Mapping[str, Float[np.ndarray, " d"]]
    scale: Mapping[str, Float[np.ndarray, " d"]]


class Pool(Mapping[str, Float[np.ndarray, "n d"]]):
    """The vectors of utterances, by view, which remembers what methods derive from them.

    Methods take any mapping of vectors. Many runs on the same utterances take one `Pool`, and the Gram
    matrices are computed once.
    """

    def __init__(self, vectors: Vectors, speakers: Sequence[str]):
        """Keep vectors, one row per utterance, and the speaker of each."""
        self._vectors, self.speakers = dict(vectors), np.asarray(speakers)
        self._standardised: dict[Normalise, Standardised] = {}
        self._grams: dict[Normalise, Float[np.ndarray, "k p p"]] = {}

    def __getitem__(self, view: str) -> Float[np.ndarray, "n d"]:
        """Return the vectors of a view."""
        return self._vectors[view]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the views."""
        return iter(self._vectors)

    def __len__(self) -> int:
        """Return the number of views."""
        return len(self._vectors)

    def standardised(self, normalise: Normalise) -> Standardised:
        """Return standardised vectors; a value that is not finite becomes the mean, 0."""
        if normalise not in self._standardised:
            found = Standardised({}, {}, {})
            for view, values in self._vectors.items():
                if normalise == "speaker":
                    values = by_speaker(values, self.speakers.tolist())
                mean, scale = moments(values)
                scale = scale * np.sqrt(values.shape[1])
                x = np.nan_to_num((values - mean) / scale, nan=0, posinf=0, neginf=0)
                found.x[view], found.mean[view], found.scale[view] = (  # pyright: ignore[reportIndexIssue]
                    part.astype(np.float32) for part in (x, mean, scale)
                )
            self._standardised[normalise] = found
        return self._standardised[normalise]

    def grams(self, normalise: Normalise, rows: Int[np.ndarray, " r"]) -> Float[np.ndarray, "k p p"]:
        """Return the inner products of some rows in each view, padded with zeros to a multiple of `ROWS`."""
        if len(rows) < len(self.speakers):
            return self._products(normalise, rows)
        if normalise not in self._grams:
            self._grams[normalise] = self._products(normalise, rows)
        return self._grams[normalise]

    def _products(self, normalise: Normalise, rows: Int[np.ndarray, " r"]) -> Float[np.ndarray, "k p p"]:
        padded = -(-len(rows) // ROWS) * ROWS
        grams = np.zeros((len(self), padded, padded), np.float32)
        for gram, x in zip(grams, self.standardised(normalise).x.values(), strict=True):
            gram[: len(rows), : len(rows)] = x[rows] @ x[rows].T
        return grams

    def rows(self, labels: Int[np.ndarray, " n"], seed: int) -> Int[np.ndarray, " r"]:
        """Return the rows that take part: all labelled ones, and at most `MOST_UNLABELLED` others."""
        free = np.flatnonzero(labels < 0)
        if len(free) > MOST_UNLABELLED:
            free = seeded(seed, "unlabelled").choice(free, MOST_UNLABELLED, replace=False)
        return np.sort(np.concatenate([np.flatnonzero(labels >= 0), free]))
