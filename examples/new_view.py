"""A new view: zero-crossing rate and level of an utterance.

    python examples/new_view.py

In the package the view is a file in `pcl_jax/views/` and a line in `VIEWS`; its parameters are flags then
(`--views mel egemaps level --level.floor 1e-5`).
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import soundfile

from pcl_jax.config import Encoders
from pcl_jax.corpora.utterance import Corpus, Utterance
from pcl_jax.features.extract import extract
from pcl_jax.models.encoders import ENCODERS
from pcl_jax.views.catalogue import VIEWS, catalogue
from pcl_jax.views.view import Kind, View


@dataclass(frozen=True)
class Level:
    """Parameters of the view."""

    floor: float = 1e-6
    """Mean power below this is raised to it before the logarithm."""


@dataclass(frozen=True)
class LevelView(View):
    """Zero-crossing rate and level of an utterance, float32 `[2]`."""

    config: Level = field(default_factory=Level)

    @property
    def name(self) -> str:
        return "level"

    @property
    def kind(self) -> Kind:
        return "vector"  # [d]; "frames" is [t, d], "states" is [t, h, d]

    def describe(self) -> Mapping[str, Any]:
        return {"kind": "level", "version": 1, "dtype": "float32", **asdict(self.config)}

    def size(self, duration_s: float) -> int:
        return 2 * 4

    def features(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [level(waveform, self.config.floor) for waveform in waveforms]


def level(waveform: np.ndarray, floor: float) -> np.ndarray:
    """Compute the zero-crossing rate and the natural logarithm of the mean power."""
    negative = np.signbit(waveform)
    crossings = np.mean(negative[1:] != negative[:-1])
    return np.array([crossings, np.log(max(np.mean(waveform**2), floor))], np.float32)


VIEWS["level"] = LevelView


def main() -> None:
    """Extract the view of two synthetic waveforms, and encode it."""
    seconds = np.arange(16_000) / 16_000
    waveforms = {
        "tone": 0.5 * np.sin(2 * np.pi * 100 * seconds + 0.1),
        "noise": np.random.default_rng(0).uniform(-0.1, 0.1, 16_000),
    }
    view = catalogue()["level"]
    with tempfile.TemporaryDirectory() as folder:
        for name, waveform in waveforms.items():
            soundfile.write(f"{folder}/{name}.wav", waveform, 16_000)
        utterances = tuple(
            Utterance(name, Path(folder, f"{name}.wav"), 1, "nobody", None, 1.0) for name in waveforms
        )
        store = extract(Corpus("two", utterances, {}), [view], Path(folder, "features")).stores["level"]
        features, _ = store.packed(list(waveforms))
    for name, (crossings, power) in zip(waveforms, features, strict=True):
        print(f"{name}: {crossings:.4f} zero crossings a sample, level {power:.2f}")
    encoder = ENCODERS[view.kind](view, Encoders())
    representation, _ = encoder.init_with_output(jax.random.key(0), features)
    print("representation:", representation.shape)


if __name__ == "__main__":
    main()
