"""The script that trains the tiny checkpoint: what it writes is read, and what it masks is masked."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

from pcl_jax.views.speech_models import hidden_states, load
from pcl_jax.views.speech_models.model import random_model

SCRIPT = Path(__file__).parents[2] / "scripts" / "tiny_speech_model.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("tiny_speech_model", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(script):
    return random_model("wav2vec2", script.ARCHITECTURE)


def test_the_loader_reads_what_the_script_writes_up_to_float16(script, model, tmp_path):
    width = np.ones(script.ARCHITECTURE.width, np.float32)
    params = {
        "body": jax.device_get(model.parameters),
        "norm": {"scale": width, "bias": width},
        "mask": width,
    }
    script.write(params, tmp_path)
    loaded = load(tmp_path)
    assert loaded.architecture == script.ARCHITECTURE == load("tiny").architecture
    assert loaded.normalise
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4)  # noqa: E731
    jax.tree.map(close, loaded.parameters, model.parameters)


def test_masked_frames_hide_what_the_local_encoder_heard(script, model):
    """A change of the audio under the mask changes no state; beside the mask it changes many."""
    voice = script.utterance(0)[:8_000]
    changed = np.where(np.arange(8_000) // 320 == 12, 0, voice)  # heard by frames 11 and 12 alone
    mask = (np.arange(24) >= 10) & (np.arange(24) < 14)
    embedding = np.ones(script.ARCHITECTURE.width, np.float32)

    def states(waveform, mask):
        with script.masked_frames(embedding, mask[None]):
            return hidden_states.__wrapped__(model, waveform[None].astype(np.float32))[0]

    masked, masked_changed, bare, bare_changed = jax.jit(
        lambda a, b, m, n: (states(a, m), states(b, m), states(a, n), states(b, n))
    )(voice, changed, mask, np.zeros(24, bool))
    np.testing.assert_allclose(masked, masked_changed, atol=1e-5)
    assert np.abs(np.asarray(bare - bare_changed)).max() > 1e-2


def test_a_voice_of_the_script_is_normalised_and_the_same_each_time(script):
    voice = script.utterance(3)
    assert voice.shape == (script.SAMPLES,)
    assert abs(voice.mean()) < 1e-5
    assert voice.std() == pytest.approx(1, abs=1e-3)
    assert np.array_equal(voice, script.utterance(3))
    assert not np.array_equal(voice, script.utterance(4))
