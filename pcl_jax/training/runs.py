"""Do the runs of a study: pre-train, fine-tune, probe. What is recorded is not done again.

The one place where data, training, checkpoints and records meet; the command line and the
experiments call nothing else to train.
"""

import csv
import io
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from pcl_jax import checkpoint, records
from pcl_jax.metrics import recall, uar, wa
from pcl_jax.training import finetune as finetuning
from pcl_jax.training import pretrain as pretraining
from pcl_jax.training import probe as probing
from pcl_jax.training.fold_data import FoldData
from pcl_jax.training.networks import init_encoder
from pcl_jax.training.study import Probe, Study, Task

SAVE_EVERY_S = 5.0
"""A kill loses at most this much pre-training, or one epoch."""

FINETUNED = "model.safetensors"
"""Encoder, classifier and scale of a fine-tuning at its best epoch."""

Row = Mapping[str, Any]
"""A record, as it stands in the file."""


Watch = Callable[[Mapping[str, Any], int], None]
"""Told of each pre-training epoch: its metrics, and the most epochs there can be."""


def pretrain(study: Study, fold: int, watch: Watch | None = None) -> Path:
    """Pre-train on a fold, or go on where it stopped, or do nothing if it is done; the run's folder.

    Raises:
        ValueError: fewer than two views, or too few utterances for a batch.
        FloatingPointError: the loss is no longer finite.
        CheckpointError: another process is at it.
    """
    if len(study.views) < 2:
        raise ValueError(
            f"pre-training pulls views together, and there is only {', '.join(study.views) or 'none'}; "
            "give at least two with --views"
        )
    folder = study.pretraining_folder(fold)
    if (folder / checkpoint.ENCODERS).is_file():
        return folder
    config, data = study.settings.pretraining, study.data(fold)
    _write_card(study, folder, fold, data)
    with checkpoint.states(folder / "states") as states:
        start = pretraining.beginning(data, study.networks(), seed=study.seed, mesh=study.mesh)
        progress = start = states.latest(start) or start
        history = _History(folder / "epochs.jsonl", upto=progress.epoch)
        saved_at, saved = time.monotonic(), progress.epoch
        epochs = pretraining.pretrain(
            data, study.networks(), config, seed=study.seed, mesh=study.mesh, progress=start
        )
        try:
            for progress, row in epochs:
                history.rows.append(row)
                if watch:
                    watch(row, config.epochs)
                if time.monotonic() - saved_at > SAVE_EVERY_S:
                    _save(states, history, progress)
                    saved_at, saved = time.monotonic(), progress.epoch
        finally:
            if progress.epoch > saved:
                _save(states, history, progress)
    _finish(study, folder, fold, progress, history)
    return folder


def _write_card(study: Study, folder: Path, fold: int, data: FoldData) -> None:
    """All that there is to know of a pre-training before it begins, for a reader."""
    card = study.about(fold, study.views) | {
        "views": list(study.views),
        "seed": study.seed,
        "settings": asdict(study.settings),
        "skipped": dict(study.skipped),
        "imputed values": dict(data.imputed),
        "versions": records.versions(),
    }
    checkpoint.write_atomically(folder / "run.json", json.dumps(card, indent=1).encode())


def _save(states: checkpoint.States, history: "_History", progress: pretraining.Progress) -> None:
    history.write()  # first: a state never knows of epochs that the history lacks
    states.save(progress.epoch, progress)


def _finish(
    study: Study, folder: Path, fold: int, progress: pretraining.Progress, history: "_History"
) -> None:
    """Record, then leave the encoders: they say that nothing is left to do."""
    params = jax.device_get(progress.best.params)
    temperature = study.settings.pretraining.temperature
    if study.relative(folder) not in study.done():  # else killed between the record and the encoders
        study.record(
            folder,
            fold=fold,
            view="+".join(study.views),
            title=study.title(study.views),
            views=tuple(study.views),
            method="pretraining",
            temperature=temperature,
            validation_loss=float(progress.patience.best),
            epochs=progress.epoch,
            best_epoch=progress.best_epoch,
            seconds=sum(row["seconds"] for row in history.rows),
            params_digest=records.params_digest(params),
        )
    about = study.about(fold, study.views) | {"views": list(study.views), "temperature": temperature}
    checkpoint.save_arrays(folder / checkpoint.ENCODERS, params["encoder"], about)


def evaluate(study: Study, run: Task | Probe, done: Mapping[str, Row] | None = None) -> Row:
    """Fine-tune or probe, and test, unless there is a record of it; the record.

    Args:
        done: `study.done()`, to spare reading it for each run of a grid.

    Raises:
        CheckpointError: the pre-trained encoder is not there, or of another fold, corpus or feature.
        ValueError: no labelled utterances.
    """
    folder = study.folder(run)
    if row := (study.done() if done is None else done).get(study.relative(folder)):
        return row
    began = time.monotonic()
    card: dict[str, Any] = {}
    encoder = None
    if run.pretrained is not None:
        encoder, card = checkpoint.load_encoder(run.pretrained, run.view, **study.about(run.fold, [run.view]))
    data = study.data(run.fold)
    rows = data.rows(study.subset(run.fold, run.fraction, run.repeat))
    if isinstance(run, Probe):
        vectors = _vectors(study, run.fold, run.view, run.method, run.pretrained)
        result = probing.probe(data, vectors, rows)
        outcome = {"method": run.method, "epochs": 0, "best_epoch": 0, "params_digest": ""}
    else:
        result = finetuning.finetune(
            data,
            study.model(run.view),
            rows,
            study.settings.finetuning,
            pretrained=encoder,
            frozen=run.frozen,
            repeat=run.repeat,
            seed=study.seed,
            mesh=study.mesh,
        )
        _save_finetuned(study, folder, data, run, result)
        outcome = {
            "method": "supervised" if encoder is None else "pairwise-cl",
            "frozen": run.frozen,
            "epochs": len(result.history),
            "best_epoch": result.best_epoch,
            "params_digest": records.params_digest(jax.device_get(result.params)),
        }
    return study.record(
        folder,
        fold=run.fold,
        view=run.view,
        title=study.title([run.view]),
        views=tuple(card.get("views", ())),
        temperature=card.get("temperature"),
        fraction=run.fraction,
        n_labelled=len(rows),
        repeat=run.repeat,
        seconds=time.monotonic() - began,
        **outcome,
        **_scores(data, result),
    )


def _scores(data: FoldData, result: finetuning.Finetuned | probing.Probed) -> dict[str, Any]:
    c = len(data.corpus.classes)
    truth = data.labels[data.labelled(data.test)]
    validation = data.labels[data.labelled(data.validation)]
    return {
        "uar": uar(truth, result.test, c),
        "wa": wa(truth, result.test),
        "recall": tuple(map(float, recall(truth, result.test, c))),
        "validation_uar": uar(validation, result.validation, c),
        "validation_wa": wa(validation, result.validation),
    }


def representations(
    study: Study,
    fold: int,
    view: str,
    of: Literal["random", "pretrained", "supervised"],
    pretrained: Path | None,
) -> np.ndarray:
    """`[n, d]` of all utterances of a fold, dropout off, by the encoder of a view.

    Args:
        of: a fresh encoder; that of a pre-training; that of a network trained from scratch on all labels
            (repeat 0, trained now if it is not there).
        pretrained: folder of the pre-training.
    """
    data, model = study.data(fold), study.model(view)
    if of == "random":
        params, _ = init_encoder(model.encoder, data.of_view(view).example()[view], view, seed=study.seed)
    elif of == "supervised":
        row = evaluate(study, Task(fold, view))
        params = checkpoint.load_arrays(study.runs / row["run"] / FINETUNED)[0]["encoder"]
    else:
        assert pretrained is not None
        params, _ = checkpoint.load_encoder(pretrained, view, **study.about(fold, [view]))
    return finetuning.represent(data, model, params, data.all, study.mesh)


@lru_cache(maxsize=8)
def _vectors(study: Study, fold: int, view: str, method: str, pretrained: Path | None) -> np.ndarray:
    """What a probe reads: the same for all shares and repeats of a fold, so kept for a while."""
    if method == "probe-raw":
        return probing.pooled(study.data(fold), view)
    return representations(study, fold, view, "random" if pretrained is None else "pretrained", pretrained)


def _save_finetuned(
    study: Study, folder: Path, data: FoldData, run: Task, result: finetuning.Finetuned
) -> None:
    """The model at its best epoch, the epochs, and the predictions of the test session."""
    classes = data.corpus.classes
    about = study.about(run.fold, [run.view]) | {"view": run.view, "classes": list(classes)}
    arrays = result.params | {"scale": result.scale._asdict()}
    checkpoint.save_arrays(folder / FINETUNED, jax.device_get(arrays), about)
    history = _History(folder / "epochs.jsonl", upto=0)
    history.rows.extend(result.history)
    history.write()
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("id", "truth", "prediction"))
    for row, prediction in zip(data.labelled(data.test), result.test, strict=True):
        writer.writerow((data.ids[row], classes[data.labels[row]], classes[prediction]))
    checkpoint.write_atomically(folder / "predictions.csv", table.getvalue().encode())


class _History:
    """The metrics of each epoch, one JSON row each; rewritten whole, so that it is never torn."""

    def __init__(self, path: Path, upto: int):
        self._path = path
        lines = path.read_text().splitlines() if path.is_file() else []
        self.rows = [row for row in map(json.loads, lines) if row["epoch"] <= upto]

    def write(self) -> None:
        lines = "".join(json.dumps(row) + "\n" for row in self.rows)
        checkpoint.write_atomically(self._path, lines.encode())
