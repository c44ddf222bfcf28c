"""Export: the trained part of a model, one file for each view, as ONNX or as a program of JAX.

A file takes features and returns log-probabilities: pooling over frames, standardisation, a linear layer and
softmax. The front end is not in it: whoever uses the file computes the features of the view, with the
settings in the model's `config.json`. `fusion.json` says how the outputs of several views become one
prediction:

    softmax(sum of weight * logits / sum of weights / temperature)
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pcl_jax.inference.model import Model
from pcl_jax.models.readout import Readout
from pcl_jax.runs.files import write_atomically
from pcl_jax.training.classifier import Trained
from pcl_jax.views.view import View

Format = Literal["onnx", "jax"]
"""Kinds of files, which are the endings of their names too."""
Serialise = Callable[[Readout, View, tuple[str, ...]], bytes]
"""Function from the readout of a view and the names of the classes to the content of a file."""
FUSION = "fusion.json"
NORMALISED_PER_SPEAKER = (
    "the readouts expect vectors that are normalised by their speaker's mean and deviation"
)


def export_model(model: Model, folder: Path, format: Format = "onnx") -> list[Path]:
    """Write a file for each view of a model, and `fusion.json`: together they are `model.predict`.

    A model that is normalised per speaker has two classifiers. That for speakers who are not known is written
    to the folder itself, the other one to `per_speaker/`.

    Args:
        model: A trained model.
        folder: Made if it is not there; files of these names are replaced.
        format: "onnx": `NAME.onnx`, see `export_onnx.readout_graph`; "jax": `NAME.jax`, see
            `export_jax.readout_program`.

    Returns:
        The paths that were written.

    Raises:
        ModuleNotFoundError: The format is "onnx", and the package `onnx` is not installed.
    """
    paths = _export(model, model.trained.fallback or model.trained, folder, format)
    if model.trained.fallback is not None:
        paths += _export(model, model.trained, folder / "per_speaker", format)
    return paths


def _export(model: Model, trained: Trained, folder: Path, format: Format) -> list[Path]:
    serialise = _serialise(format)
    contents = {
        f"{name}.{format}": serialise(readout, model.views[name], model.classes)
        for name, readout in trained.readouts.items()
    }
    fusion: dict[str, Any] = {
        "classes": list(model.classes),
        "weights": {name: float(weight) for name, weight in trained.weights.items()},
        "temperature": float(trained.temperature),
    }
    if trained.normalise == "speaker":
        fusion["note"] = NORMALISED_PER_SPEAKER
    contents[FUSION] = (json.dumps(fusion, indent=1) + "\n").encode()
    for name, content in contents.items():
        write_atomically(folder / name, content)
    return [folder / name for name in contents]


def _serialise(format: Format) -> Serialise:
    if format == "jax":
        from pcl_jax.inference.export_jax import readout_program, state_sizes

        return lambda readout, view, _: readout_program(readout, view.kind, state_sizes(view))
    from pcl_jax.inference.export_onnx import readout_graph

    return lambda readout, view, classes: readout_graph(readout, view.kind, classes).SerializeToString()
