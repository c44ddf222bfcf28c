"""A quick stand-in for the recipe: class means as a readout. What it is given is kept."""

from collections.abc import Sequence

import numpy as np
import pytest

from pcl_jax.learn.evaluation import Data
from pcl_jax.models.readout import Readout
from pcl_jax.training import recipe
from pcl_jax.training.classifier import Trained


class Means:
    """A fit whose readout is made of class means of the first view."""

    def __init__(self) -> None:
        self.calls: list[tuple[dict, np.ndarray, list[str]]] = []
        self.stop_at: int | None = None

    def __call__(
        self, vectors, labels, speakers: Sequence[str], classes: int, *, kinds=None, seed: int = 0
    ) -> Trained:
        if self.stop_at == len(self.calls):
            raise KeyboardInterrupt
        self.calls.append((vectors, labels, list(speakers)))
        view = next(iter(vectors))
        rows = vectors[view]
        mean, scale = rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-6)
        weight = np.zeros((rows.shape[1], classes), np.float32)
        bias = np.full(classes, -50.0, np.float32)
        for number in np.unique(labels[labels >= 0]):
            centre = ((rows - mean) / scale)[labels == number].mean(axis=0)
            weight[:, number], bias[number] = centre, -centre @ centre / 2
        readout = Readout(mean.astype(np.float32), scale.astype(np.float32), weight, bias)
        return Trained({view: readout}, {view: 1.0}, classes, choice={"method": "means"})


@pytest.fixture
def means(monkeypatch: pytest.MonkeyPatch) -> Means:
    fit = Means()
    monkeypatch.setattr(recipe, "recipe", fit)
    monkeypatch.setattr(recipe, "probe", fit)
    return fit


def make(speakers: int = 6, each: int = 8, classes: int = 3, labelled: float = 0.7, seed: int = 0) -> Data:
    """Vectors of 5 numbers: class means 2 apart, noise of 1, and a shift of each speaker."""
    rng = np.random.default_rng(seed)
    names = np.repeat(np.arange(speakers), each)
    truth = np.concatenate([rng.permutation(np.arange(each) % classes) for _ in range(speakers)])
    rows = (
        rng.normal(size=(len(names), 5))
        + 2 * np.eye(classes, 5)[truth]
        + 0.5 * rng.normal(size=(speakers, 5))[names]
    )
    labels = np.where(rng.random(len(names)) < labelled, truth, -1)
    count = min(classes, len(labels))
    labels[:count] = np.arange(count)
    return Data(
        {"mel": rows.astype(np.float32)},
        labels,
        [f"s{name}" for name in names],
        ("angry", "neutral", "sad")[:classes],
    )
