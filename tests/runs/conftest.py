"""A small corpus of made-up features: ten speakers, five sessions, four classes and a rest."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pcl_jax import config
from pcl_jax.corpora.utterance import Corpus, Utterance
from pcl_jax.features import store
from pcl_jax.models.encoders import ENCODERS, FunctionalsEncoder, SpectrogramEncoder
from pcl_jax.runs.runner import Runner, open_runner
from pcl_jax.runs.spec import Finetune, Labels
from tests.features.parts import append

CLASSES = ("neutral", "angry", "sad", "happy")
SETTINGS = config.Settings(
    pretraining=config.Pretraining(epochs=4, batch=16), finetuning=config.Finetuning(epochs=3, batch=16)
)


@dataclass(frozen=True)
class FakeView:
    """Features that hold the emotion plainly; nothing is extracted."""

    name: str
    encoder_of: Callable[[], Any]
    make: Callable[[np.random.Generator, int], np.ndarray]
    normalised: bool = True
    device_batch: None = None
    longest_s: None = None
    frozen_parameters: int = 0
    full_frames: int | None = None
    kind: str = "fake"

    @property
    def title(self) -> str:
        return self.name

    def describe(self) -> dict[str, Any]:
        return {"kind": self.name, "dtype": "float32"}

    def size(self, duration_s: float) -> int:
        return 0

    def precomputed(self, utterance: Utterance) -> None:
        return None

    def features(self, waveforms):
        raise AssertionError("nothing is extracted in these tests")


ENCODERS["fake"] = lambda view, _: view.encoder_of()  # small networks, which are quickly compiled


def mel_like(rng: np.random.Generator, emotion: int) -> np.ndarray:
    # between two multiples of 8: all batches need one capacity, and few programs are compiled
    frames = rng.normal(size=(int(rng.integers(32, 40)), 8)).astype(np.float32)
    frames[:, emotion] += 2
    return frames


def functionals_like(rng: np.random.Generator, emotion: int) -> np.ndarray:
    vector = rng.normal(size=12).astype(np.float32)
    vector[emotion] += 2
    vector[11] = np.nan if rng.random() < 0.1 else vector[11]
    return vector


VIEWS = (
    FakeView("mel", lambda: SpectrogramEncoder(channels=(4, 4, 8)), mel_like),
    FakeView("egemaps", lambda: FunctionalsEncoder(widths=(16, 8)), functionals_like),
)


def small_corpus(per_speaker: int = 8) -> Corpus:
    utterances = [
        Utterance(
            id=f"{session}{letter}{number:02d}",
            path=Path("nowhere.wav"),
            session=session,
            speaker=f"{session}{letter}",
            emotion=(*CLASSES, "other")[number % 5],
            duration_s=1.0,
        )
        for session in range(1, 6)
        for letter in "FM"
        for number in range(per_speaker)
    ]
    return Corpus("small", tuple(utterances), {name: (name,) for name in CLASSES})


def small_runner(
    folder: Path,
    *,
    runs="runs",
    views=VIEWS,
    settings=SETTINGS,
    corpus=None,
    seed=0,
    devices: int | None = 1,
    memory_share: float = 0.5,
    spoil=None,
    extra_corpora=None,
) -> Runner:
    """Open a runner whose features and runs lie in a folder."""
    corpus = corpus or small_corpus()
    stores = {}
    for view in views:
        rng = np.random.default_rng(5)
        rows = []
        for u in corpus.utterances:
            values = view.make(rng, (*CLASSES, "other").index(u.emotion))
            values = values if spoil is None else spoil(u, values)
            rows.append(store.Row(u.id, f"audio of {corpus.name} {u.id}", values))
        target = folder / f"features-{runs}" / view.name
        if not target.is_dir():
            append(target, view.name, view.describe(), rows)
        stores[view.name] = store.open(target)
    return open_runner(
        corpus,
        {view.name: view for view in views},
        stores,
        settings,
        runs=folder / runs,
        seed=seed,
        devices=devices,
        memory_share=memory_share,
        extra_corpora=extra_corpora,
    )


@pytest.fixture
def make_runner(tmp_path: Path) -> Callable[..., Runner]:
    """`make_runner(runs=..., views=..., settings=..., corpus=..., seed=..., devices=...)`."""
    return partial(small_runner, tmp_path)


def finetune(runner: Runner, fold: int, view: str, start=None, *, frozen=False, **labels) -> dict[str, Any]:
    """Return the record of a fine-tuning with the runner's settings."""
    spec = Finetune(fold, view, start, frozen, Labels(**labels), runner.settings)
    return dict(runner.run_one(spec))
