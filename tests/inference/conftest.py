"""A model of two views, trained on tones."""

from pathlib import Path

import numpy as np
import pytest

from pcl_jax.inference import reach
from pcl_jax.inference.model import Model
from pcl_jax.inference.model_folder import save_model
from pcl_jax.inference.vector_view import VectorView
from pcl_jax.training.recipe import probe
from pcl_jax.views.egemaps import EgemapsView
from pcl_jax.views.mel import MelView

CLASSES = ("high", "low")


def tone(number: int, samples: int = 12_000) -> np.ndarray:
    """A noisy tone: high for even numbers, low for odd ones."""
    rng = np.random.default_rng(number)
    pitch = 900 if number % 2 == 0 else 150
    time = np.arange(samples) / 16_000
    wave = 0.2 * np.sin(2 * np.pi * pitch * rng.uniform(0.9, 1.1) * time) + 0.02 * rng.normal(size=samples)
    return wave.astype(np.float32)


def train(views: dict | None = None) -> Model:
    views = views or {"mel": MelView(), "egemaps": EgemapsView()}
    waveforms = [tone(number) for number in range(24)]
    vectors = {name: np.stack(VectorView(view).features(waveforms)) for name, view in views.items()}
    labels = np.array([number % 2 if number < 12 else -1 for number in range(24)])
    speakers = [f"speaker {number // 2 % 4}" for number in range(24)]
    trained = probe(vectors, labels, speakers, 2)
    views = {name: view for name, view in views.items() if name in trained.readouts}
    return Model(
        CLASSES,
        views,
        trained,
        reach.fit({name: vectors[name] for name in trained.readouts}),
        {"corpus": "tones"},
    )


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models") / "tones"
    save_model(place, train(), "# A model of tones\n")
    return place
