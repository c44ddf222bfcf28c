"""A saved model holds all that it needs: from a waveform it predicts what was recorded."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from pcl_jax import audio, config
from pcl_jax.corpora import read
from pcl_jax.data.normalise import Normaliser
from pcl_jax.data.ragged import pack
from pcl_jax.features.extract import extract
from pcl_jax.models.networks import Scale, predict
from pcl_jax.runs.checkpoint import FINETUNED, load_arrays
from pcl_jax.runs.runner import open_runner
from pcl_jax.runs.spec import Finetune
from pcl_jax.views.egemaps import EgemapsView
from pcl_jax.views.mel import MelView

SPEAKERS = ("03", "08", "09", "10", "11", "12", "13", "14", "15", "16")


@pytest.fixture
def tones(tmp_path: Path) -> Path:
    """Ten speakers, four emotions, a rising or falling tone each, in EMO-DB's names."""
    root, rng = tmp_path / "emodb", np.random.default_rng(0)
    root.mkdir()
    for speaker in SPEAKERS:
        for letter in "WNTF":
            samples = int(rng.integers(6000, 9000))
            tone = 0.1 * np.sin(np.arange(samples) ** 1.1 * rng.uniform(0.05, 0.1))
            soundfile.write(
                root / f"{speaker}a01{letter}a.wav", tone + 0.01 * rng.normal(size=samples), 16_000
            )
    return root


@pytest.mark.slow
@pytest.mark.parametrize("normalise", ["fold", "none", "speaker"])
@pytest.mark.parametrize("standardise", [False, True])
def test_a_saved_model_predicts_from_a_waveform_what_was_recorded(tmp_path, tones, normalise, standardise):
    views = {"mel": MelView(), "egemaps": EgemapsView()}
    corpus = read("emodb", tones)
    stores = extract(corpus, list(views.values()), tmp_path / "features", workers=1).stores
    settings = config.Settings(
        normalise=normalise, finetuning=config.Finetuning(epochs=2, standardise=standardise)
    )
    runner = open_runner(corpus, views, stores, settings, runs=tmp_path / "runs", devices=1)
    for view in views:
        spec = Finetune(1, view, settings=settings)
        runner.run_one(spec)
        recorded = runner.ledger.predictions(spec)
        arrays, card = load_arrays(runner.ledger.folder(spec) / FINETUNED)
        statistics = arrays.pop("normaliser") | {name: np.array(card[name]) for name in ("method", "keys")}
        normaliser = Normaliser.from_arrays(statistics)
        scale = Scale(**arrays.pop("scale"))
        utterances = {u.id: u for u in corpus.utterances}
        for id, expected in zip(recorded.test_ids, recorded.test, strict=True):
            (features,) = views[view].features([audio.read(utterances[id].path)])
            values = np.atleast_2d(features)
            frames = np.array([len(features) if features.ndim > 1 else 0])
            values, _ = normaliser.apply(values, frames, [utterances[id].speaker])
            batch = pack([values]) if features.ndim > 1 else values
            found = predict(runner.network(view, settings), arrays, scale, batch)
            # Raw functionals ("none") reach 1e3 and logits 400, whose last bit in float32 is 3e-5.
            rounding = 4 * np.finfo(np.float32).eps * np.abs(expected).max()
            np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=max(1e-5, rounding))
        assert card["classes"] == list(corpus.classes)
