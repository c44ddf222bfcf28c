"""Vectors: one fixed-size summary per utterance and view, for readouts that train on a handful of labels.

Pure: arrays in, arrays out. The mean and the standard deviation over time of every feature; of hidden states
those in the middle third, where speech models hold prosody: the first are close to the spectrum, the last to
phonemes and words.
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Num


def pool(features: Num[np.ndarray, "..."]) -> Float[np.ndarray, " d"]:
    """Return the vector of an utterance.

    Args:
        features: Features of one view as the store holds them: `[d]` functionals, `[t, m]` a spectrogram,
            `[t, h, d]` hidden states.

    Returns:
        Functionals as they are; otherwise means over frames, then standard deviations, `[2 m]` or, of the
        s states in the middle third, `[2 s d]`; float32, accumulated in float64. A value that is not finite
        stays so.

    Example:
        >>> pool(np.array([[1.0, 5.0], [3.0, 5.0]])).tolist()
        [2.0, 5.0, 1.0, 0.0]
    """
    values = np.asarray(features)
    if values.ndim == 3:
        states = values.shape[1]
        values = values[:, states // 3 : states - states // 3]
    if values.ndim > 1:
        frames = values.reshape(len(values), -1).astype(np.float64)
        values = np.concatenate([frames.mean(axis=0), frames.std(axis=0)])
    return values.astype(np.float32)


def pool_all(features: Iterable[Num[np.ndarray, "..."]]) -> Float[np.ndarray, "n d"]:
    """Return the vector of each utterance, one row each."""
    return np.stack([pool(item) for item in features])
