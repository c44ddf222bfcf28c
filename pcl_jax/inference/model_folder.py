"""Model folder: a trained model on disk.

The folder holds `model.safetensors` (arrays), `config.json` (everything else, with the digest of the arrays)
and `README.md` (the model card). `config.json` is written last and removed first, so a folder that was
written halfway holds no model. Nothing is pickled.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
from safetensors.numpy import load, save

from pcl_jax.inference.model import Model
from pcl_jax.inference.reach import Reach
from pcl_jax.models.readout import Readout
from pcl_jax.runs.files import write_atomically
from pcl_jax.training.classifier import Trained
from pcl_jax.views.catalogue import ViewSettings, catalogue
from pcl_jax.views.view import View

SCHEMA = 1
"""Version of the folder: raised when an older program could misread it."""
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"


class ModelError(ValueError):
    """A model folder that cannot be used. One line: what, which value, what to do."""


def save_model(folder: Path, model: Model, card: str) -> None:
    """Write a model folder, which replaces an older one.

    Args:
        folder: Made if it is not there.
        model: Its `config` holds what the caller knows of the training; the rest is added here.
        card: Text of the model card, `README.md`.
    """
    arrays = _arrays(model.trained, "readouts")
    for name in model.reach.means:
        arrays[f"reach/{name}/mean"] = model.reach.means[name]
        arrays[f"reach/{name}/scale"] = model.reach.scales[name]
    weights = save({name: np.ascontiguousarray(values) for name, values in arrays.items()})
    config = {
        **model.config,
        "schema": SCHEMA,
        "pcl_jax": version("pcl-jax"),
        "classes": list(model.classes),
        "views": {name: _view_to_json(view) for name, view in model.views.items()},
        "classifier": _trained_to_json(model.trained),
        "reach": model.reach.limit,
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    text = json.dumps(config, indent=1, sort_keys=True, allow_nan=False) + "\n"
    (folder / CONFIG).unlink(missing_ok=True)
    write_atomically(folder / WEIGHTS, weights)
    write_atomically(folder / CARD, card.encode())
    write_atomically(folder / CONFIG, text.encode())


def _arrays(trained: Trained, prefix: str) -> dict[str, np.ndarray]:
    """Return the parameters of a classifier, and of the one that it falls back to, by name."""
    arrays = {
        f"{prefix}/{name}/{field}": np.asarray(values)
        for name, readout in trained.readouts.items()
        for field, values in readout._asdict().items()
    }
    return arrays | (_arrays(trained.fallback, f"fallback/{prefix}") if trained.fallback else {})


def _trained_to_json(trained: Trained) -> dict[str, Any]:
    return {
        "weights": {name: float(weight) for name, weight in trained.weights.items()},
        "normalise": trained.normalise,
        "temperature": float(trained.temperature),
        "choice": trained.choice,
        "fallback": trained.fallback and _trained_to_json(trained.fallback),
    }


def _trained_from(
    config: Mapping[str, Any], arrays: Mapping[str, np.ndarray], prefix: str, classes: int
) -> Trained:
    weights = {str(name): float(weight) for name, weight in config["weights"].items()}
    readouts = {
        name: Readout(*(arrays[f"{prefix}/{name}/{field}"] for field in Readout._fields)) for name in weights
    }
    fallback = config["fallback"]
    return Trained(
        readouts,
        weights,
        classes,
        normalise=config["normalise"],
        temperature=float(config["temperature"]),
        choice=config["choice"],
        fallback=fallback and _trained_from(fallback, arrays, f"fallback/{prefix}", classes),
    )


def _view_to_json(view: View) -> dict[str, Any]:
    entry: dict[str, Any] = {"describe": json.loads(json.dumps(dict(view.describe())))}
    settings = getattr(view, "config", None)
    if settings is not None:
        entry["settings"] = asdict(settings)
    if checkpoint := getattr(view, "checkpoint", ""):
        entry["checkpoint"] = checkpoint
    return entry


def load_model(folder: Path | str, *, speech_model: str | None = None) -> Model:
    """Load a model folder.

    Args:
        folder: Folder that `pcl learn --out` wrote.
        speech_model: Place of the speech model on this machine, if it is another one than in training. Its
            content must be the same.

    Returns:
        The model; `model.predict(waveform, sampling_rate)` is all that most programs need.

    Raises:
        ModelError: No model; a damaged one; one of a newer version; the speech model is missing or another
            one; a view whose algorithm has changed since.
    """
    folder = Path(folder)
    config = _read_config(folder)
    weights = _read_weights(folder, config)
    try:
        views, remarks = _views(config["views"], speech_model)
        return _model(config, weights, views, remarks)
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"{folder / CONFIG} is damaged ({error!r}): copy it again, or learn again"
        ) from error


def _model(
    config: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    views: Mapping[str, View],
    remarks: tuple[str, ...],
) -> Model:
    classes = tuple(map(str, config["classes"]))
    trained = _trained_from(config["classifier"], arrays, "readouts", len(classes))
    if (
        lacking := {*trained.readouts, *(trained.fallback.readouts if trained.fallback else ())}
        - views.keys()
    ):
        raise ValueError(f"it has no view {', '.join(sorted(lacking))}")
    reach = Reach(
        {name: arrays[f"reach/{name}/mean"] for name in views},
        {name: arrays[f"reach/{name}/scale"] for name in views},
        float(config["reach"]),
    )
    return Model(classes, views, trained, reach, config, remarks)


def _read_config(folder: Path) -> Mapping[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise ModelError(
            f"{folder} holds no model (no {CONFIG}): give the folder that `pcl learn --out` wrote"
        )
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}): copy it again, or learn again") from error
    schema = config.get("schema") if isinstance(config, dict) else None
    if not isinstance(schema, int):
        raise ModelError(f"{path} is not the configuration of a pcl_jax model")
    if schema > SCHEMA:
        raise ModelError(
            f"{folder} was written by a newer pcl_jax, {config.get('pcl_jax')}, in schema {schema}; this one "
            f"reads {SCHEMA}: upgrade pcl_jax"
        )
    return config


def _read_weights(folder: Path, config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    path = folder / WEIGHTS
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read ({error.strerror}): copy it again, or learn again"
        ) from error
    if hashlib.sha256(content).hexdigest() != config.get("sha256"):
        raise ModelError(f"{path} is not what {CONFIG} says (SHA-256): copy both again, or learn again")
    return load(content)


def _views(entries: Mapping[str, Any], speech_model: str | None) -> tuple[dict[str, View], tuple[str, ...]]:
    """Make the views of a model; return them and remarks."""
    settings = ViewSettings()
    for name, entry in entries.items():
        if "settings" in entry:
            field = "speech" if "checkpoint" in entry else name
            known = getattr(settings, field)
            settings = replace(settings, **{field: _from_json(type(known), entry["settings"])})
    checkpoints = [speech_model or entry["checkpoint"] for entry in entries.values() if "checkpoint" in entry]
    try:
        known = catalogue(settings, checkpoints)
        views = {name: known[name] for name in entries}
        described = {name: json.loads(json.dumps(dict(view.describe()))) for name, view in views.items()}
    except FileNotFoundError as error:
        raise ModelError(
            f"the speech model is missing: {str(error).splitlines()[0]}; give its place with --speech-model "
            "(in Python speech_model=...)"
        ) from error
    remarks = []
    for name, view in described.items():
        remarks += _differences(name, entries[name]["describe"], view)
    return views, tuple(remarks)


def _differences(name: str, saved: Mapping[str, Any], view: Mapping[str, Any]) -> list[str]:
    """Return a remark where other releases of libraries make a view's values; refuse any other difference."""
    different = [key for key in {**saved, **view} if saved.get(key) != view.get(key)]
    if "weights" in different:
        raise ModelError(f"the speech model of the view {name} is another one than in training (its digest)")
    for key in different:
        if key != "libraries":
            raise ModelError(
                f"the view {name} is computed differently now ({key}: {view.get(key)}, in training "
                f"{saved.get(key)}): use the version of pcl_jax that made the model, or learn again"
            )
    if not different:
        return []
    then, now = (", ".join(f"{k} {v}" for k, v in x["libraries"].items()) for x in (saved, view))
    return [f"the view {name} was learned with {then}, and is computed with {now}: values may differ"]


def _from_json(kind: type, values: Mapping[str, Any]) -> Any:
    """Make a settings record, with its nested records, of what `asdict` gave."""
    hints = get_type_hints(kind)
    known = {item.name for item in fields(kind)}
    if unknown := values.keys() - known:
        raise ModelError(f"its settings have an unknown field {sorted(unknown)[0]!r}: upgrade pcl_jax")
    return kind(
        **{
            name: _from_json(hints[name], value) if is_dataclass(hints[name]) else value
            for name, value in values.items()
        }
    )
