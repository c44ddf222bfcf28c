"""z-score of features, by the statistics of the fold's training utterances or of each speaker.

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
"""Utterances read at once: bounds memory."""
_CONSTANT = 1e-6
"""A standard deviation below this share of the mean is float32 rounding of a constant."""


@runtime_checkable
class Features(Protocol):
    """What `fit` needs of a `store.Store`."""

    def packed(self, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]: ...


@dataclass(frozen=True)
class Normaliser:
    """Mean and scale by speaker; by "" where one pair serves all ("fold", "none").

    Under "none" values stay as they are, and the mean only stands in for NaN and infinite values.
    """

    how: Normalisation
    mean: Mapping[str, Float[np.ndarray, "..."]]
    scale: Mapping[str, Float[np.ndarray, "..."]]

    def apply(
        self, values: Num[np.ndarray, "rows ..."], lengths: Int[np.ndarray, " n"], speakers: Sequence[str]
    ) -> tuple[Float[np.ndarray, "rows ..."], int]:
        """Scale packed features (`Store.packed`).

        Args:
            values: Frames of all utterances end to end, or one row per utterance.
            lengths: Frames per utterance; zeros where there is one row per utterance.
            speakers: Of each utterance.

        Returns:
            float32 values, all finite, and how many of them had to be imputed.

        Raises:
            ValueError: A speaker without statistics; arguments of different lengths.
        """
        rows_of = np.maximum(lengths, 1)
        if not (len(lengths) == len(speakers) and rows_of.sum() == len(values)):
            raise ValueError(
                f"{len(values)} rows, {len(lengths)} lengths (sum {rows_of.sum()}) and {len(speakers)} "
                "speakers do not belong together"
            )
        scaled = aligned(values.shape, np.float32)
        imputed, end = 0, 0
        for key, rows in _runs(["" if self.how != "speaker" else name for name in speakers], rows_of):
            if key not in self.mean:
                raise ValueError(f"speaker {key!r} has no statistics; fit on all of his or her utterances")
            start, end = end, end + rows
            finite = np.isfinite(values[start:end])
            if self.how == "none":
                scaled[start:end] = np.where(finite, values[start:end], self.mean[key])
            else:
                centred = np.where(finite, values[start:end], 0.0) - self.mean[key]
                scaled[start:end] = np.where(finite, centred / self.scale[key], 0.0)
            imputed += finite.size - int(np.count_nonzero(finite))
        return scaled, imputed

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Plain arrays to keep beside a checkpoint: how, keys `[k]`, mean and scale `[k, ...]`."""
        keys = sorted(self.mean)
        return {
            "how": np.array(self.how),
            "keys": np.array(keys, dtype=np.str_),
            "mean": np.stack([self.mean[key] for key in keys]),
            "scale": np.stack([self.scale[key] for key in keys]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Normaliser":
        """The inverse of `to_arrays`."""
        keys = [str(key) for key in arrays["keys"]]
        how: Normalisation = str(arrays["how"])  # pyright: ignore[reportAssignmentType]
        return cls(
            how, dict(zip(keys, arrays["mean"], strict=True)), dict(zip(keys, arrays["scale"], strict=True))
        )


def fit(features: Features, ids: Sequence[str], speakers: Sequence[str], how: Normalisation) -> Normaliser:
    """Statistics of these utterances.

    Args:
        features: The store of one view.
        ids: "fold" and "none": the fold's training utterances. "speaker": all utterances of every
            speaker that will be scaled, test speakers included (transductive, labels unused).
        speakers: Of each id.
        how: Whose statistics.

    Raises:
        ValueError: No utterances; ids and speakers of different lengths.
    """
    if len(ids) != len(speakers) or not ids:
        raise ValueError(
            f"{len(ids)} ids and {len(speakers)} speakers: as many as ids are needed, and one at least"
        )
    by_key: dict[str, list[str]] = {}
    for id, speaker in zip(ids, speakers, strict=True):
        by_key.setdefault(speaker if how == "speaker" else "", []).append(id)
    moments = {key: _moments(features, members) for key, members in by_key.items()}
    return Normaliser(
        how,
        {key: mean for key, (mean, _) in moments.items()},
        {key: np.ones_like(std) if how == "none" else std for key, (_, std) in moments.items()},
    )


def _moments(
    features: Features, ids: Sequence[str]
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Mean and (population) standard deviation over all rows, 0 and 1 where there is nothing to go by.

    Chunks are merged by Chan, Golub and LeVeque's update: a sum of squares would lose a small variance
    beside a large mean.
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
    """Neighbours with the same key as one (key, number of rows)."""
    runs: list[tuple[str, int]] = []
    for key, count in zip(keys, rows.tolist(), strict=True):
        if runs and runs[-1][0] == key:
            runs[-1] = (key, runs[-1][1] + count)
        else:
            runs.append((key, count))
    return runs
