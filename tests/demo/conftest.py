"""A page with a model of two classes that answers at once, and a table of clips."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pcl_jax.demo.server import Demo
from pcl_jax.inference import labels


def sound(seconds: float = 1.0, rate: int = 16_000, format: str = "WAV", subtype: str | None = None) -> bytes:
    """Return the bytes of an audio file with a rising tone."""
    content = io.BytesIO()
    time = np.arange(round(seconds * rate)) / rate
    soundfile.write(content, 0.3 * np.sin(6000 * time * (1 + time / 9)), rate, subtype=subtype, format=format)
    return content.getvalue()


def predict(waveforms):
    """Return a larger probability of the second class for longer waveforms."""
    calm = np.array([1 / (1 + len(waveform) / 16_000) for waveform in waveforms])
    return np.stack([calm, 1 - calm], axis=1)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Three clips, one of them a segment."""
    (tmp_path / "a.wav").write_bytes(sound(1.0))
    (tmp_path / "b.flac").write_bytes(sound(2.0, 44_100, "FLAC"))
    clips = [
        labels.Clip("a.wav", "a.wav", "anna"),
        labels.Clip("b.flac", "b.flac", "bob"),
        labels.Clip("b.flac:0.5-1.5", "b.flac", "bob", 0.5, 1.5),
    ]
    labels.write(tmp_path / "x.csv", clips)
    return tmp_path / "x.csv"


@pytest.fixture
def demo(table: Path) -> Demo:
    return Demo(("calm", "angry"), predict, table, ("learned from 20 labels",), token="secret")
