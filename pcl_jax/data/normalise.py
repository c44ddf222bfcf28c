"""Normalisation of features to mean 0 and deviation 1, by statistics of the fold or of each speaker.

Pure: arrays in, arrays out. Statistics are per feature (mel band, functional, ...), over all frames,
accumulated in float64; NaN and infinite values are left out of them and become the mean, 0, afterwards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, Num

from pcl_jax.arrays import aligned

Normalisation = Literal["fold", "speaker", "none"]

_CHUNK = 256
"""Utterances that are read together; bounds memory."""
_CONSTANT = 1e-6
"""A standard deviation below this share of the mean is float32 rounding of a constant."""


@runtime_checkable
class Features(Protocol):
    """The part of `pcl_jax.features.store.Store` that `fit` reads."""

    def packed(self, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the values of these utterances end to end, and the frames of each."""
        ...


@dataclass(frozen=True)
class Normaliser:
    """Mean and scale of each speaker; those of "" serve all speakers ("fold", "none").

    Under "none" values stay as they are, and the mean only replaces NaN and infinite values.
    """

    method: Normalisation
    mean: Mapping[str, Float[np.ndarray, "..."]]
    scale: Mapping[str, Float[np.ndarray, "..."]]

    def apply(
        self, values: Num[np.ndarray, "rows ..."], lengths: Int[np.ndarray, " n"], speakers: Sequence[str]
    ) -> tuple[Float[np.ndarray, "rows ..."], int]:
        """Scale packed features (`Store.packed`).

        Args:
            values: Frames of all utterances end to end, or one row per utterance.
            lengths: Frames per utterance; zeros where there is one row per utterance.
            speakers: The speaker of each utterance.

        Returns:
            float32 values, all finite, and the number of them that were imputed.

        Raises:
            ValueError: A speaker has no statistics, or the arguments do not belong together.
        """
        row_counts = np.maximum(lengths, 1)
        if not (len(lengths) == len(speakers) and row_counts.sum() == len(values)):
            raise ValueError(
                f"{len(values)} rows, {len(lengths)} lengths (sum {row_counts.sum()}) and {len(speakers)} "
                "speakers do not belong together"
            )
        scaled = aligned(values.shape, np.float32)
        imputed, end = 0, 0
        for key, rows in _runs(["" if self.method != "speaker" else name for name in speakers], row_counts):
            if key not in self.mean:
                raise ValueError(f"speaker {key!r} has no statistics; fit on all of his or her utterances")
            start, end = end, end + rows
            finite = np.isfinite(values[start:end])
            if self.method == "none":
                scaled[start:end] = np.where(finite, values[start:end], self.mean[key])
            else:
                centred = np.where(finite, values[start:end], 0.0) - self.mean[key]
                scaled[start:end] = np.where(finite, centred / self.scale[key], 0.0)
            imputed += finite.size - int(np.count_nonzero(finite))
        return scaled, imputed

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return plain arrays for a checkpoint: method, keys `[k]`, mean and scale `[k, ...]`."""
        keys = sorted(self.mean)
        return {
            "method": np.array(self.method),
            "keys": np.array(keys, dtype=np.str_),
            "mean": np.stack([self.mean[key] for key in keys]),
            "scale": np.stack([self.scale[key] for key in keys]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Normaliser":
        """Return the normaliser that `to_arrays` was called on."""
        keys = [str(key) for key in arrays["keys"]]
        method: Normalisation = str(arrays["method"])  # pyright: ignore[reportAssignmentType]
        return cls(
            method,
            dict(zip(keys, arrays["mean"], strict=True)),
            dict(zip(keys, arrays["scale"], strict=True)),
        )


def fit(features: Features, ids: Sequence[str], speakers: Sequence[str], method: Normalisation) -> Normaliser:
    """Fit a normaliser to these utterances.

    Args:
        features: The store of one view.
        ids: "fold" and "none": the fold's training utterances. "speaker": all utterances of every
            speaker that will be scaled, test speakers included (transductive, labels unused).
        speakers: The speaker of each utterance.
        method: One pair of statistics for all, one for each speaker, or none.

    Raises:
        ValueError: There are no utterances, or ids and speakers differ in number.
    """
    if len(ids) != len(speakers) or not ids:
        raise ValueError(
            f"{len(ids)} ids and {len(speakers)} speakers: as many as ids are needed, and one at least"
        )
    by_key: dict[str, list[str]] = {}
    for id, speaker in zip(ids, speakers, strict=True):
        by_key.setdefault(speaker if method == "speaker" else "", []).append(id)
    moments = {key: _moments(features, members) for key, members in by_key.items()}
    return Normaliser(
        method,
        {key: mean for key, (mean, _) in moments.items()},
        {key: np.ones_like(std) if method == "none" else std for key, (_, std) in moments.items()},
    )


def _moments(
    features: Features, ids: Sequence[str]
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Return mean and (population) standard deviation over all rows, 0 and 1 without any finite value.

    Chunks are merged by Chan, Golub and LeVeque's update: a sum of squares would lose a small variance
    next to a large mean.
    """
    count, mean, squares = np.zeros(()), np.zeros(()), np.zeros(())
    for first in range(0, len(ids), _CHUNK):
        values = features.packed(ids[first : first + _CHUNK])[0].astype(np.float64)
        finite = np.isfinite(values)
        n = finite.sum(axis=0)
        chunk_mean = np.where(finite, values, 0.0).sum(axis=0) / np.maximum(n, 1)
        deviation = np.where(finite, values - chunk_mean, 0.0)
        shift, total = chunk_mean - mean, np.maximum(count + n, 1)
        squares = squares + (deviation**2).sum(axis=0) + shift**2 * count * n / total
        mean = mean + shift * n / total
        count = count + n
    std = np.sqrt(squares / np.maximum(count, 1))
    return mean, np.where(std > _CONSTANT * np.abs(mean), std, 1.0)


def _runs(keys: Sequence[str], rows: Int[np.ndarray, " n"]) -> list[tuple[str, int]]:
    """Join neighbours with the same key to one (key, number of rows)."""
    runs: list[tuple[str, int]] = []
    for key, count in zip(keys, rows.tolist(), strict=True):
        if runs and runs[-1][0] == key:
            runs[-1] = (key, runs[-1][1] + count)
        else:
            runs.append((key, count))
    return runs
