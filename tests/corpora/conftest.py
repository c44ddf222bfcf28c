"""Fixtures of the corpus tests: tiny audio files, and corpora without audio."""

from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import soundfile

from pcl_jax.corpora.targets import FOUR
from pcl_jax.corpora.utterance import Corpus, Utterance

WriteAudio = Callable[..., Path]


@pytest.fixture
def write_audio() -> WriteAudio:
    """Function `write_audio(path)`: 0.1 s of noise, different in every file unless `seed` is given."""

    def write(
        path: Path,
        *,
        duration_s: float = 0.1,
        sampling_rate: int = 16_000,
        channels: int = 1,
        seed: int | None = None,
    ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(crc32(str(path).encode()) if seed is None else seed)
        samples = rng.uniform(-0.5, 0.5, (round(duration_s * sampling_rate), channels))
        soundfile.write(path, samples, sampling_rate)
        return path

    return write


@pytest.fixture
def abstract_corpus() -> Callable[..., Corpus]:
    """Function `abstract_corpus({"neutral": 40, ...})`: counts per session of two speakers."""

    def make(counts: dict[str, int]) -> Corpus:
        utterances = [
            Utterance(
                f"{session}-{emotion}-{i:04d}",
                Path("none.wav"),
                session,
                f"{session}{'FM'[i % 2]}",
                emotion,
                1.0,
            )
            for session in range(1, 6)
            for emotion, count in counts.items()
            for i in range(count)
        ]
        return Corpus("abstract", tuple(sorted(utterances, key=lambda u: u.id)), FOUR)

    return make
