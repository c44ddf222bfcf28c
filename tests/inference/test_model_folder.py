"""The model folder: what is written is what is read, and nothing else is."""

import json
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import pcl_jax
from pcl_jax.audio import AudioError
from pcl_jax.inference.model_folder import ModelError, load_model, save_model
from pcl_jax.views.speech_models.view import SpeechModelView
from tests.inference.conftest import CLASSES, tone, train


def test_a_model_that_is_loaded_predicts_what_it_predicted_before(folder):
    before, after = train(), pcl_jax.load_model(folder)
    assert after.classes == CLASSES
    assert after.remarks == ()
    for number in range(30, 36):
        expected = before.predict(tone(number), 16_000)
        assert after.predict(tone(number), 16_000) == pytest.approx(expected, abs=1e-6)
        assert max(expected, key=expected.get) == CLASSES[number % 2]


def test_probabilities_sum_to_one_and_stand_under_their_class(folder):
    found = load_model(folder).predict(tone(40), 16_000)
    assert list(found) == list(CLASSES)
    assert sum(found.values()) == pytest.approx(1, abs=1e-9)
    assert all(0 <= value <= 1 for value in found.values())


def test_prediction_does_not_depend_on_the_batch(folder):
    model = load_model(folder)
    waveforms = [tone(number, 9_000 + 500 * number) for number in range(7)]
    together = model.log_probabilities(model.vectors(waveforms))
    for waveform, row in zip(waveforms, together, strict=True):
        np.testing.assert_allclose(model.log_probabilities(model.vectors([waveform]))[0], row, atol=1e-5)


def test_integers_and_other_rates_are_the_same_sound(folder):
    model = load_model(folder)
    wave = tone(3)
    expected = model.predict(wave, 16_000)
    assert model.predict(np.round(wave * 32768).astype(np.int16), 16_000) == pytest.approx(expected, abs=0.02)
    assert max(model.predict(tone(3, 36_000), 48_000)) in CLASSES


@pytest.mark.parametrize(
    ("waveform", "rate", "says"),
    [
        (np.zeros(0, np.float32), 16_000, "no samples"),
        (np.zeros(16_000, np.float32), 16_000, "silent"),
        (np.full(16_000, np.nan, np.float32), 16_000, "NaN"),
        (100 * tone(1), 16_000, "full scale"),
        (tone(1, 300), 16_000, "too short"),
        (tone(1)[None], 16_000, "one channel"),
        (tone(1), 0, "whole number of Hz"),
        (np.array(["a"]), 16_000, "give floats or signed integers"),
    ],
)
def test_a_waveform_that_cannot_be_meant_is_one_line(folder, waveform, rate, says):
    with pytest.raises((AudioError, ValueError), match=says) as error:
        load_model(folder).predict(waveform, rate)
    assert "\n" not in str(error.value)


def changed(folder: Path, tmp_path: Path, **values) -> Path:
    """A copy of the model whose configuration has other values."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | values))
    return copy


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"schema": 99, "pcl_jax": "9.0"}, "newer pcl_jax, 9.0"),
        ({"schema": "one"}, "not the configuration"),
        ({"sha256": "0" * 64}, "is not what config.json says"),
        ({"classifier": {"weights": {"wavlm": 1.0}}}, "damaged"),
        ({"views": {}}, "damaged"),
        ({"views": {"mel": {"describe": {}}}}, "differently"),
        ({"classes": None}, "damaged"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused_with_the_reason(folder, tmp_path, values, says):
    with pytest.raises(ModelError, match=says) as error:
        load_model(changed(folder, tmp_path, **values))
    assert "\n" not in str(error.value)


def test_no_model_and_half_a_model_are_refused(folder, tmp_path):
    with pytest.raises(ModelError, match="holds no model"):
        load_model(tmp_path / "nothing")
    copy = changed(folder, tmp_path)
    (copy / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(ModelError, match="not what config"):
        load_model(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        load_model(copy)


def test_any_bytes_as_configuration_are_a_model_or_a_model_error(folder, tmp_path):
    copy = changed(folder, tmp_path)
    text = (folder / "config.json").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        place = int(rng.integers(len(text)))
        (copy / "config.json").write_bytes(text[:place] + rng.bytes(3) + text[place + 3 :])
        with suppress(ModelError):  # or a change within a text that nothing reads
            load_model(copy)


def test_a_view_that_is_computed_differently_is_refused_and_another_library_is_a_remark(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    config["views"]["mel"]["describe"]["version"] = 99
    with pytest.raises(ModelError, match="mel is computed differently now"):
        load_model(changed(folder, tmp_path, views=config["views"]))
    config["views"]["mel"]["describe"] |= {"version": 1, "libraries": {"librosa": "0.1"}}
    shutil.rmtree(tmp_path / "copy")
    (remark,) = load_model(changed(folder, tmp_path, views=config["views"])).remarks
    assert "librosa 0.1" in remark


@pytest.mark.slow
def test_the_speech_model_is_found_again_or_its_absence_is_said(tmp_path, monkeypatch):
    views = {"whisper": SpeechModelView("whisper", "untrained")}
    save_model(tmp_path / "model", train(views), "card")
    model = load_model(tmp_path / "model")
    assert set(model.predict(tone(1), 16_000)) == set(CLASSES)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["views"]["whisper"]["checkpoint"] = "nowhere/whisper"
    with pytest.raises(ModelError, match="speech model is missing") as error:
        load_model(changed(tmp_path / "model", tmp_path, views=config["views"]))
    assert "\n" not in str(error.value)
    config["views"]["whisper"] |= {"checkpoint": "untrained"}
    config["views"]["whisper"]["describe"]["weights"] = "others"
    shutil.rmtree(tmp_path / "copy")
    with pytest.raises(ModelError, match="another one than in training"):
        load_model(changed(tmp_path / "model", tmp_path, views=config["views"]))


@pytest.mark.slow
def test_a_folder_that_was_written_halfway_holds_no_model(folder, tmp_path, monkeypatch):
    """Whatever file a kill stops at, no mixture of two models is ever loaded."""
    from pcl_jax.inference import model_folder

    copy = changed(folder, tmp_path)
    write = model_folder.write_atomically
    for files in range(3):
        left = iter([None] * files)

        def write_some(path, content, left=left):
            try:
                next(left)
            except StopIteration:
                raise KeyboardInterrupt from None
            write(path, content)

        monkeypatch.setattr(model_folder, "write_atomically", write_some)
        with pytest.raises(KeyboardInterrupt):
            save_model(copy, train(), "card")
        with pytest.raises(ModelError, match="no model"):
            load_model(copy)
    monkeypatch.setattr(model_folder, "write_atomically", write)
    save_model(copy, train(), "card")
    assert load_model(copy).classes == CLASSES
    assert (copy / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
