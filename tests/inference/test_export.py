"""Exported readouts: onnxruntime and audonnx compute what the model does."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pcl_jax.commands import export as command
from pcl_jax.commands.flags import Export
from pcl_jax.data.vectors import pool, pool_all
from pcl_jax.inference.model_folder import load_model
from pcl_jax.models.readout import Readout, log_probabilities
from tests.inference.conftest import tone

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
pytest.importorskip("onnx", reason="the extra onnx is not installed")

from pcl_jax.inference.export import export_model  # noqa: E402 - after the skip
from pcl_jax.inference.export_onnx import readout_graph  # noqa: E402 - after the skip

CLASSES = ("angry", "calm", "sad")
SHAPES = {"vector": (88,), "frames": (50, 64), "states": (50, 7, 16)}


def make_readout(kind: str, seed: int = 0) -> Readout:
    rng = np.random.default_rng(seed)
    size = len(pool(np.zeros(SHAPES[kind])))
    scale = rng.uniform(0.5, 2, size) * np.sqrt(size)
    values = (rng.normal(size=size), scale, rng.normal(size=(size, 3)), rng.normal(size=3))
    return Readout(*(np.asarray(value, np.float32) for value in values))


def run(graph: bytes, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    hidden, logits = session.run(["hidden_states", "logits"], {"features": features.astype(np.float32)})
    return hidden, logits


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize(("batch", "time"), [(1, 1), (1, 50), (4, 50), (3, 211)])
def test_onnxruntime_computes_the_log_probabilities_for_any_batch_and_length(kind, batch, time):
    readout = make_readout(kind)
    shape = SHAPES[kind] if kind == "vector" else (time, *SHAPES[kind][1:])
    features = np.random.default_rng(batch).normal(3, 2, size=(batch, *shape)).astype(np.float32)
    hidden, logits = run(readout_graph(readout, kind, CLASSES).SerializeToString(), features)
    vectors = pool_all(features)
    np.testing.assert_allclose(hidden, vectors, atol=1e-5)
    np.testing.assert_allclose(logits, log_probabilities(readout, vectors), atol=1e-5)
    np.testing.assert_allclose(np.exp(logits).sum(axis=1), 1, atol=1e-5)


def test_a_value_that_is_not_finite_counts_as_the_mean():
    readout = make_readout("vector")
    features = np.random.default_rng(0).normal(size=(4, 88)).astype(np.float32)
    features[0, 0], features[1, 1], features[2, 2] = np.nan, np.inf, -np.inf
    _, logits = run(readout_graph(readout, "vector", CLASSES).SerializeToString(), features)
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(logits, log_probabilities(readout, features), atol=1e-5)


def exported_prediction(folder: Path, features: dict[str, np.ndarray]) -> np.ndarray:
    """Return probabilities of one utterance from the files alone, as `fusion.json` says."""
    fusion = json.loads((folder / "fusion.json").read_text())
    total = sum(fusion["weights"].values())
    scores = sum(
        weight / total * run((folder / f"{name}.onnx").read_bytes(), features[name][None])[1][0]
        for name, weight in fusion["weights"].items()
    )
    powers = np.exp(scores / fusion["temperature"])
    return powers / powers.sum()


def test_the_files_of_a_model_predict_what_the_model_predicts(folder, tmp_path, capsys):
    assert command.export(Export(folder, tmp_path / "out")) == 0
    assert "fusion.json" in capsys.readouterr().out
    model = load_model(folder)
    for number in (100, 101):
        features = {name: view.features([tone(number)])[0] for name, view in model.views.items()}
        expected = model.predict(tone(number), 16_000)
        found = exported_prediction(tmp_path / "out", features)
        np.testing.assert_allclose(found, list(expected.values()), atol=1e-5)


def test_a_model_that_is_normalised_per_speaker_is_two_classifiers(folder, tmp_path):
    model = load_model(folder)
    per_speaker = replace(model.trained, normalise="speaker", fallback=model.trained, temperature=3.0)
    paths = export_model(replace(model, trained=per_speaker), tmp_path)
    (view,) = model.trained.readouts
    assert {str(path.relative_to(tmp_path)) for path in paths} == {
        f"{view}.onnx", "fusion.json", f"per_speaker/{view}.onnx", "per_speaker/fusion.json",
    }  # fmt: skip
    features = {view: model.views[view].features([tone(100)])[0]}
    expected = list(replace(model, trained=per_speaker).predict(tone(100), 16_000).values())
    np.testing.assert_allclose(exported_prediction(tmp_path, features), expected, atol=1e-5)
    assert "normalised by their speaker" in (tmp_path / "per_speaker" / "fusion.json").read_text()
    assert "note" not in json.loads((tmp_path / "fusion.json").read_text())


def test_audonnx_loads_the_file_and_names_the_classes(tmp_path):
    audonnx = pytest.importorskip("audonnx")
    readout = make_readout("vector")
    (tmp_path / "model.onnx").write_bytes(readout_graph(readout, "vector", CLASSES).SerializeToString())
    model = audonnx.Model(str(tmp_path / "model.onnx"), labels={"logits": list(CLASSES)})
    features = np.random.default_rng(0).normal(size=(2, 88)).astype(np.float32)
    found = model(features, 16_000)
    np.testing.assert_allclose(found["logits"], log_probabilities(readout, features), atol=1e-5)
    assert model.labels("logits") == list(CLASSES)
    assert found["hidden_states"].shape == (2, 88)


def test_audonnx_takes_frames_of_one_recording(tmp_path):
    audonnx = pytest.importorskip("audonnx")
    readout = make_readout("frames")
    (tmp_path / "model.onnx").write_bytes(readout_graph(readout, "frames", CLASSES).SerializeToString())
    options = onnxruntime.SessionOptions()
    options.add_free_dimension_override_by_name("batch", 1)
    model = audonnx.Model(str(tmp_path / "model.onnx"), session_options=options)
    frames = np.random.default_rng(0).normal(size=(70, 64)).astype(np.float32)
    found = model(frames, 16_000)["logits"]
    np.testing.assert_allclose(found, log_probabilities(readout, pool_all(frames[None])), atol=1e-5)


def test_export_model_replaces_older_files(folder, tmp_path):
    first = export_model(load_model(folder), tmp_path)
    contents = [path.read_bytes() for path in first]
    assert [path.read_bytes() for path in export_model(load_model(folder), tmp_path)] == contents
