"""The views of the speech models: valid frames, batching, the clip, float16, names."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from pcl_jax.config import Encoders
from pcl_jax.data.ragged import pack
from pcl_jax.models.encoders import ENCODERS
from pcl_jax.views.clip import Clip
from pcl_jax.views.speech_models import batched, hidden_states, load
from pcl_jax.views.speech_models.batched import bucket
from pcl_jax.views.speech_models.families import TINY, TINY_FOLDER
from pcl_jax.views.speech_models.files import find_files
from pcl_jax.views.speech_models.model import untrained
from pcl_jax.views.speech_models.view import SpeechModels, SpeechModelView

REFERENCE = Path(__file__).parents[1] / "reference"
BARE = SpeechModels(clip=Clip(duration_s=2.0, pad=False))
PADDED = SpeechModels(clip=Clip(duration_s=2.0, pad=True))
LENGTHS = (400, 9_001, 31_999, 40_000)


def stand_in(family, config: SpeechModels) -> SpeechModelView:
    return SpeechModelView(family, "untrained", config)


def waveforms(*lengths: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [(0.1 * rng.standard_normal(n)).astype(np.float32) for n in lengths]


def alone(waveform: np.ndarray) -> np.ndarray:
    return np.asarray(hidden_states(load("untrained"), waveform[None]))[0]


@pytest.mark.slow
def test_bare_features_are_those_of_the_utterance_alone():
    """Order and batch do not matter: the norm over time leaves the bucket's padding out."""
    inputs = waveforms(*LENGTHS)
    found = stand_in("wav2vec2", BARE).features(inputs)
    for waveform, features in zip(inputs, found, strict=True):
        expected = alone(waveform[:32_000])
        assert features.dtype == np.float16
        assert features.shape == expected.shape
        np.testing.assert_allclose(features, expected, atol=4e-3)  # half a unit of float16 at 4


def test_padded_features_are_the_valid_frames_of_the_padded_clip():
    inputs = waveforms(9_001, 40_000)
    found = stand_in("wav2vec2", PADDED).features(inputs)
    padded = alone(np.pad(inputs[0], (0, 32_000 - 9_001)))
    assert found[0].shape[0] == 27 == (9_001 - 400) // 320 + 1
    assert found[1].shape[0] == 99
    np.testing.assert_allclose(found[0], padded[:27], atol=4e-3)
    bare = stand_in("wav2vec2", BARE).features(inputs[:1])[0]
    assert (
        np.abs(found[0].astype(float) - bare).max() > 0.05
    )  # the two policies differ, and the store must know


@pytest.mark.slow
def test_the_batch_of_an_accelerator_gives_the_same():
    """Partly filled batches with silent rows, several lengths in one."""
    inputs = waveforms(*LENGTHS)
    for config in (BARE, PADDED):
        single = stand_in("wav2vec2", config).features(inputs)
        batched = stand_in("wav2vec2", replace(config, batch_s=8.0)).features(inputs)
        for one, other in zip(single, batched, strict=True):
            np.testing.assert_allclose(one, other, atol=4e-3)


def test_whisper_keeps_the_valid_frames_of_its_window():
    config = replace(PADDED, clip=Clip(duration_s=1.0))
    inputs = waveforms(321, 40_000)
    found = stand_in("whisper", config).features(inputs)
    assert [x.shape for x in found] == [(2, 4, 64), (50, 4, 64)]
    expected = np.asarray(hidden_states(untrained("whisper"), inputs[1][None, :16_000]))[0]
    np.testing.assert_allclose(found[1], expected, atol=4e-3)


def test_a_small_model_has_one_program_for_each_octave():
    view = stand_in("wav2vec2", BARE)
    view.features(waveforms(17_000))
    before = batched._compute._cache_size()
    view.features(waveforms(31_000, 20_000))
    assert batched._compute._cache_size() == before


def test_what_is_compiled_is_one_program_per_bucket(monkeypatch):
    monkeypatch.setattr(batched, "SMALL", 0)
    _compute = batched._compute
    view = stand_in("wav2vec2", BARE)
    view.features(waveforms(16_000))
    before = _compute._cache_size()
    view.features(waveforms(15_999, 15_001, 15_900))
    assert _compute._cache_size() == before
    view.features(waveforms(17_000))
    assert _compute._cache_size() == before + 1


def test_buckets_waste_little_and_are_few():
    lengths = np.arange(8_000, 240_001, 100)
    buckets = np.array([bucket(int(n)) for n in lengths])
    assert (buckets >= lengths).all()
    assert ((buckets - lengths) / lengths).max() <= 1 / 8
    assert len(set(buckets)) <= 40
    assert bucket(400) == 8_000


def test_float16_overflow_names_the_layer():
    view = stand_in("wav2vec2", BARE)
    loud = view.model.parameters["layer_1"]["feed_forward_norm"]
    spoilt = {**view.model.parameters["layer_1"], "feed_forward_norm": {**loud, "scale": loud["scale"] * 1e6}}
    view.__dict__["model"] = view.model.replace(parameters={**view.model.parameters, "layer_1": spoilt})
    with pytest.raises(
        OverflowError, match=r"untrained stand-in.*hidden state 2 \(layer 2\) reaches .*float16"
    ):
        view.features(waveforms(8_000))
    nan = {**loud, "bias": loud["bias"] * np.nan}
    spoilt["feed_forward_norm"] = nan
    with pytest.raises(OverflowError, match=r"hidden state 2 \(layer 2\) reaches inf"):
        view.features(waveforms(8_000))


def test_normalisation_only_when_asked_for():
    inputs = [w * 3 + 0.5 for w in waveforms(9_001)]
    normalised = (inputs[0] - inputs[0].mean()) / np.sqrt(inputs[0].var() + 1e-7)
    for setting, wanted in (("never", inputs[0]), ("torchaudio", inputs[0]), ("checkpoint", normalised)):
        view = stand_in("wav2vec2", replace(BARE, normalise=setting))
        view.__dict__["model"] = view.model.replace(normalise=True)
        np.testing.assert_allclose(view.features(inputs)[0], alone(wanted), atol=4e-3)


def checkpoint_folder(tmp_path, layout: str, preprocessor: str | None = None):
    """A checkpoint as the hub has them, from a stored reference."""
    with np.load(REFERENCE / f"speech_models_{layout}.npz") as file:
        tensors = {name.removeprefix("tensors/"): file[name] for name in file if name.startswith("tensors/")}
        config = str(file["config"])
    to = tmp_path / layout
    to.mkdir(exist_ok=True)
    (to / "config.json").write_text(config)
    save_file(tensors, to / "model.safetensors")
    if preprocessor is not None:
        (to / "preprocessor_config.json").write_text(preprocessor)
    return to


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "setting", "preprocessor", "normalises"),
    [
        ("wav2vec2_base", "torchaudio", '{"do_normalize": true}', False),
        ("wav2vec2_base", "checkpoint", '{"do_normalize": true}', True),
        ("wav2vec2_base", "checkpoint", '{"do_normalize": false}', False),
        ("wav2vec2_large", "torchaudio", '{"do_normalize": true}', True),
        ("wav2vec2_large", "torchaudio", "{}", True),
        ("wav2vec2_large", "torchaudio", '{"do_normalize": false}', False),
        ("wav2vec2_large", "torchaudio", None, True),
        ("wav2vec2_large", "never", '{"do_normalize": true}', False),
        ("whisper", "torchaudio", '{"do_normalize": true}', False),
        ("whisper", "checkpoint", "{}", False),
    ],
)
def test_normalisation_is_torchaudios_or_the_checkpoints(tmp_path, layout, setting, preprocessor, normalises):
    """As `torchaudio.pipelines`: WAV2VEC2_BASE and HUBERT_BASE do not normalise, the large ones do."""
    to = checkpoint_folder(tmp_path, layout, preprocessor)
    family = layout.split("_")[0]
    config = replace(BARE, clip=Clip(1.0, pad=False))
    view = SpeechModelView(family, str(to), replace(config, normalise=setting))
    loud = [3 * w + 0.5 for w in waveforms(9_001)]
    normalised = [(w - w.mean()) / np.sqrt(w.var() + 1e-7) for w in loud]
    never = SpeechModelView(family, str(to), replace(config, normalise="never"))
    expected = never.features(normalised if normalises else loud)
    np.testing.assert_allclose(view.features(loud)[0], expected[0], atol=4e-3)
    assert (view.describe() == never.describe()) == (not normalises)


def test_a_preprocessor_that_is_fetched_later_changes_the_digest(tmp_path, caplog):
    assumed = SpeechModelView("wav2vec2", str(checkpoint_folder(tmp_path, "wav2vec2_large"))).describe()
    assert "normalised: assumed, there is no preprocessor_config.json" in caplog.text
    said = {}
    for do in ("true", "false"):
        to = checkpoint_folder(tmp_path, "wav2vec2_large", f'{{"do_normalize": {do}}}')
        said[do] = SpeechModelView("wav2vec2", str(to)).describe()
    assert assumed != said["true"] != said["false"] != assumed
    to = checkpoint_folder(tmp_path, "wav2vec2_large", "{")
    with pytest.raises(ValueError, match=r"preprocessor_config\.json cannot be read"):
        SpeechModelView("wav2vec2", str(to)).describe()


def test_too_short_an_utterance_is_an_error():
    with pytest.raises(ValueError, match="an utterance of 399 samples makes no frame: wav2vec2 needs 400"):
        stand_in("wav2vec2", BARE).features(waveforms(399))


def test_the_description_names_what_changes_a_value_and_nothing_else():
    base = stand_in("wav2vec2", BARE).describe()
    assert json.loads(json.dumps(base)) == base
    assert base["weights"].startswith("untrained stand-in")
    for other in (PADDED, replace(BARE, dtype="bfloat16")):
        assert stand_in("wav2vec2", other).describe() != base
    assert stand_in("hubert", BARE).describe() != base
    assert stand_in("wav2vec2", replace(BARE, batch_s=9.0)).describe() == base


def test_titles_do_not_hide_an_untrained_model():
    assert stand_in("wav2vec2", BARE).title == "wav2vec2 (untrained stand-in)"
    assert SpeechModelView("wav2vec2", TINY).title == "wav2vec2 (tiny, ours, synthetic voices)"
    assert SpeechModelView("whisper").title == "whisper (openai/whisper-base)"
    assert SpeechModelView("wav2vec2").checkpoint == "facebook/wav2vec2-base"


def test_the_tiny_checkpoint_is_small_reads_by_the_real_loader_and_hides_padding():
    """It has the layout of large models: no utterance is computed on 15 s of padding."""
    files = find_files(TINY)
    assert sum(path.stat().st_size for path in TINY_FOLDER.iterdir()) < 500_000
    assert files.preprocessor is not None
    view = SpeechModelView("wav2vec2", TINY)
    assert view.describe()["weights"] == files.digest()
    assert view.model.architecture.asks_for_mask
    short, long = waveforms(9_001, 20_000)
    (expected,), (louder,) = view.features([short]), view.features([2 * short])
    assert expected.shape == (27, view.model.architecture.states, view.model.architecture.width)
    np.testing.assert_allclose(view.features([long, short])[1], expected, atol=2e-2)
    np.testing.assert_allclose(louder, expected, atol=2e-2)  # the waveform is normalised


def test_a_checkpoint_of_another_family_is_refused(monkeypatch):
    monkeypatch.setattr("pcl_jax.views.speech_models.checkpoint.load", lambda *_, **__: untrained("hubert"))
    with pytest.raises(ValueError, match="is a hubert model: use it with the view 'hubert', not 'whisper'"):
        _ = SpeechModelView("whisper", "somewhere").model


def test_the_encoder_reads_the_features():
    view = stand_in("wav2vec2", BARE)
    encoder = ENCODERS[view.kind](view, Encoders())
    batch = pack(view.features(waveforms(9_001, 9_001)))
    out, variables = encoder.init_with_output(jax.random.key(0), batch)
    assert out.shape == (2, 128)
    assert variables["params"]["layer_weights"].shape == (4,)
