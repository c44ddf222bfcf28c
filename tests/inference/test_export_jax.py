"""Exported programs of JAX: read back, they compute what the model does."""

import json
from dataclasses import replace

import numpy as np
import pytest
from jax import export

from pcl_jax.commands import export as command
from pcl_jax.commands.flags import Export
from pcl_jax.data.vectors import pool, pool_all
from pcl_jax.inference.export import export_model
from pcl_jax.inference.export_jax import readout_program, state_sizes
from pcl_jax.inference.model_folder import load_model
from pcl_jax.models.readout import Readout, log_probabilities
from pcl_jax.views.catalogue import catalogue
from pcl_jax.views.mel import MelView
from pcl_jax.views.speech_models.families import TINY
from tests.inference.conftest import tone

SHAPES = {"vector": (88,), "frames": (64,), "states": (7, 16)}


def make_readout(kind: str) -> Readout:
    rng = np.random.default_rng(0)
    size = len(pool(np.zeros((1, *SHAPES[kind]) if kind != "vector" else SHAPES[kind])))
    scale = rng.uniform(0.5, 2, size) * np.sqrt(size)
    values = (rng.normal(size=size), scale, rng.normal(size=(size, 3)), rng.normal(size=3))
    return Readout(*(np.asarray(value, np.float32) for value in values))


@pytest.mark.slow
@pytest.mark.parametrize("kind", SHAPES)
def test_one_program_gives_the_log_probabilities_for_any_batch_and_length(kind):
    readout = make_readout(kind)
    sizes = SHAPES[kind] if kind == "states" else ()
    program = export.deserialize(bytearray(readout_program(readout, kind, sizes)))
    for batch, time in ((1, 1), (1, 50), (4, 50), (3, 1499)):
        shape = SHAPES[kind] if kind == "vector" else (time, *SHAPES[kind])
        features = np.random.default_rng(batch).normal(3, 2, size=(batch, *shape)).astype(np.float32)
        found, vectors = program.call(features), pool_all(features)
        np.testing.assert_allclose(found["hidden_states"], vectors, atol=1e-6)
        np.testing.assert_allclose(found["logits"], log_probabilities(readout, vectors), atol=1e-6)


def test_a_value_that_is_not_finite_counts_as_the_mean():
    readout = make_readout("vector")
    features = np.random.default_rng(0).normal(size=(4, 88)).astype(np.float32)
    features[0, 0], features[1, 1], features[2, 2] = np.nan, np.inf, -np.inf
    found = export.deserialize(bytearray(readout_program(readout, "vector"))).call(features)
    assert np.isfinite(found["logits"]).all()
    np.testing.assert_allclose(found["logits"], log_probabilities(readout, features), atol=1e-6)


def test_the_files_of_a_model_predict_what_the_model_predicts(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command.export(Export(folder, format="jax")) == 0
    assert "fusion.json" in capsys.readouterr().out
    model, fusion = load_model(folder), json.loads((tmp_path / "jax" / "fusion.json").read_text())
    total = sum(fusion["weights"].values())
    for number in (100, 101):
        scores = np.zeros(len(fusion["classes"]))
        for name, weight in fusion["weights"].items():
            program = export.deserialize(bytearray((tmp_path / "jax" / f"{name}.jax").read_bytes()))
            features = np.stack(model.views[name].features([tone(number)])).astype(np.float32)
            scores += weight / total * np.asarray(program.call(features)["logits"][0])
        powers = np.exp(scores / fusion["temperature"])
        expected = list(model.predict(tone(number), 16_000).values())
        np.testing.assert_allclose(powers / powers.sum(), expected, atol=1e-6)


def test_a_model_that_is_normalised_per_speaker_is_two_classifiers_and_the_files_are_the_same_each_time(
    folder, tmp_path
):
    model = load_model(folder)
    per_speaker = replace(model.trained, normalise="speaker", fallback=model.trained, temperature=3.0)
    paths = export_model(replace(model, trained=per_speaker), tmp_path, "jax")
    (view,) = model.trained.readouts
    assert {str(path.relative_to(tmp_path)) for path in paths} == {
        f"{view}.jax", "fusion.json", f"per_speaker/{view}.jax", "per_speaker/fusion.json",
    }  # fmt: skip
    contents = [path.read_bytes() for path in paths]
    again = export_model(replace(model, trained=per_speaker), tmp_path, "jax")
    assert [path.read_bytes() for path in again] == contents
    assert not any(b".py" in content for content in contents), "a file names a file of this machine"


def test_the_sizes_of_hidden_states_are_those_of_their_features():
    view = catalogue(checkpoints=[TINY])["wav2vec2"]
    assert state_sizes(view) == view.features([tone(0)])[0].shape[1:]
    assert state_sizes(MelView()) == ()
