"""Do the runs of a study: pre-train, fine-tune, probe. What is recorded is not done again.

The one place where data, training, checkpoints and records meet; the command line and the
experiments call nothing else to train.
"""

import csv
import io
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import jax
import numpy as np

from pcl_jax.data.fold import FoldData
from pcl_jax.devices import barrier, broadcast_from_first, preemption_requested
from pcl_jax.evaluation.metrics import confusion, recall, uar, wa
from pcl_jax.runs import checkpoint, records
from pcl_jax.runs.records import Row
from pcl_jax.runs.study import Probe, Study, Task
from pcl_jax.training import finetune as finetuning
from pcl_jax.training import parallel_runs
from pcl_jax.training import pretrain as pretraining
from pcl_jax.training import probe as probing
from pcl_jax.training import represent as evaluation

SAVE_EVERY_S = 5.0
"""A kill loses at most this much pre-training, or one epoch."""

FINETUNED = "model.safetensors"
"""Encoder, classifier and scale of a fine-tuning at its best epoch."""

P = ParamSpec("P")
T = TypeVar("T")

Watch = Callable[[Mapping[str, Any], int], None]
"""Told of each pre-training epoch: its metrics, and the most epochs there can be."""


def _precisely(function: Callable[Concatenate[Study, P], T]) -> Callable[Concatenate[Study, P], T]:
    """With the matrix products that the study asks for."""

    @wraps(function)
    def precise(study: Study, *args: P.args, **kwargs: P.kwargs) -> T:
        with jax.default_matmul_precision(study.settings.precision):
            return function(study, *args, **kwargs)

    return precise


@_precisely
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
    config, data = study.settings.pretraining, study.pretraining_data(fold)
    _write_card(study, folder, fold, data)
    with checkpoint.states(folder / "states") as states:
        start = pretraining.initial_progress(data, study.networks(), seed=study.seed, mesh=study.mesh)
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
                stop = preemption_requested()
                if stop or broadcast_from_first(time.monotonic() - saved_at > SAVE_EVERY_S):
                    _save(states, history, progress)
                    saved_at, saved = time.monotonic(), progress.epoch
                if stop:
                    raise KeyboardInterrupt
        finally:
            # Several processes have saved together, or not at all: they go on from the last state they share.
            if progress.epoch > saved and jax.process_count() == 1:
                _save(states, history, progress)
    seen = pretraining.pretraining_rows(data, config, seed=study.seed)
    _finish(study, folder, fold, progress, history, seen)
    barrier("pretrained")
    return folder


def _write_card(study: Study, folder: Path, fold: int, data: FoldData) -> None:
    """All that there is to know of a pre-training before it begins, for a reader."""
    card = _decisive(study, fold) | {
        "skipped": dict(study.skipped),
        "imputed values": dict(data.imputed),
        "versions": records.versions(),
    }
    checkpoint.write_atomically(folder / checkpoint.CARD, json.dumps(card, indent=1).encode())


def _decisive(study: Study, fold: int) -> dict[str, Any]:
    """What names the folder of a pre-training."""
    settings = {name: value for name, value in asdict(study.settings).items() if name != "finetuning"}
    return study.about(fold, study.views) | {
        "views": list(study.views),
        "seed": study.seed,
        "settings": settings,
        "beside": [other.corpus.name for other in study.beside],
    }


def stopped(study: Study, fold: int) -> Iterator[str]:
    """Why a pre-training does not go on from a stopped one of the same fold and views: a line for each,
    with the settings that differ. None where it has begun itself.
    """
    folder = study.pretraining_folder(fold)
    if (folder / checkpoint.CARD).is_file():
        return
    mine = dict(_leaves(json.loads(json.dumps(_decisive(study, fold)))))
    for card in sorted(folder.parent.glob(f"{folder.name.rpartition('-')[0]}-*/{checkpoint.CARD}")):
        if (card.parent / checkpoint.ENCODERS).is_file():
            continue
        theirs = dict(_leaves(json.loads(card.read_text())))
        other = [
            f"{name} {theirs.get(name)}, not {value}"
            for name, value in mine.items()
            if theirs.get(name) != value
        ]
        if other:
            yield f"not going on from {card.parent}, which was stopped: it has {'; '.join(other)}"


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Of nested dictionaries, with dotted names."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _save(states: checkpoint.States, history: "_History", progress: pretraining.Progress) -> None:
    history.write()  # first: a state never knows of epochs that the history lacks
    states.save(progress.epoch, progress)


def _finish(
    study: Study,
    folder: Path,
    fold: int,
    progress: pretraining.Progress,
    history: "_History",
    seen: np.ndarray,
) -> None:
    """Record, then leave the encoders: they say that nothing is left to do."""
    history.write()
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
            pretrained_on=study.pretrained_on,
            n_pretrained=len(seen),
            validation_loss=float(progress.patience.best),
            epochs=progress.epoch,
            best_epoch=progress.best_epoch,
            seconds=sum(row["seconds"] for row in history.rows),
            params_digest=records.params_digest(params),
        )
    about = study.about(fold, study.views) | {
        "views": list(study.views),
        "temperature": temperature,
        "pretrained on": study.pretrained_on,
        "pretraining utterances": len(seen),
    }
    checkpoint.save_arrays(folder / checkpoint.ENCODERS, params["encoder"], about)


def evaluate(study: Study, run: Task | Probe) -> Row:
    """Fine-tune or probe, and test, unless there is a record of it; the record. Raises: as `evaluate_all`."""
    (row,) = evaluate_all(study, [run])
    return row


def evaluate_all(study: Study, runs: Iterable[Task | Probe]) -> Iterator[Row]:
    """Fine-tune or probe, and test, whatever has no record yet; the record of each run, known ones first.

    Fine-tunings that differ in their repeat and in where they start alone train at once, as far as that is
    quicker; their records come when all of them have ended.

    Raises:
        CheckpointError: a pre-trained encoder is not there, or of another fold, corpus or feature.
        ValueError: no labelled utterances.
        FloatingPointError: the loss of a fine-tuning is no longer finite.
    """
    done, missing = study.done(), []
    for run in runs:
        if row := done.get(study.relative(study.folder(run))):
            yield row
        else:
            missing.append(run)
    for group in _groups(study, missing):
        rows = [_probe(study, group[0])] if isinstance(group[0], Probe) else _finetune(study, group)
        barrier("evaluated")
        yield from rows
        if preemption_requested():
            raise KeyboardInterrupt


def _groups(study: Study, runs: Iterable[Task | Probe]) -> Iterator[list[Any]]:
    """Runs that train as one program, in the order of the first of each."""
    alike: dict[object, list[Task | Probe]] = {}
    for run in runs:
        kind: object = run
        if isinstance(run, Task):
            kind = (
                run.fold,
                run.view,
                run.fraction,
                run.per_class,
                run.frozen,
                run.frozen and run.pretrained,
            )
        alike.setdefault(kind, []).append(run)
    for group in alike.values():
        first, size = group[0], 1
        if isinstance(first, Task):
            data, model = study.data(first.fold), study.model(first.view)
            size = parallel_runs.max_runs_per_program(data, model, study.mesh, frozen=first.frozen)
        for begin in range(0, len(group), size):
            yield group[begin : begin + size]


def _probe(study: Study, run: Probe) -> Row:
    began = time.monotonic()
    card = _encoder(study, run)[1] if run.pretrained else {}
    data = study.data(run.fold)
    rows = data.rows(study.subset(run))
    vectors = _vectors(study, run.fold, run.view, run.method, run.pretrained)
    scores = _scores(data, probing.probe(data, vectors, rows))
    return _record(study, run, len(rows), card, scores | {"method": run.method}, time.monotonic() - began)


@_precisely
def _finetune(study: Study, runs: Sequence[Task]) -> list[Row]:
    began = time.monotonic()
    encoders = {run.pretrained: _encoder(study, run) for run in runs if run.pretrained is not None}
    first = runs[0]
    data = study.data(first.fold)
    results = finetuning.finetune(
        data,
        study.model(first.view),
        [
            finetuning.Run(
                data.rows(study.subset(run)),
                run.repeat,
                encoders[run.pretrained][0] if run.pretrained else None,
            )
            for run in runs
        ],
        study.settings.finetuning,
        frozen=first.frozen,
        seed=study.seed,
        mesh=study.mesh,
    )
    labelled = len(study.subset(first))
    seconds = (time.monotonic() - began) / len(runs)
    rows = []
    for run, result in zip(runs, results, strict=True):
        _save_finetuned(study, study.folder(run), data, run, result)
        own = {
            "method": "supervised" if run.pretrained is None else "pairwise-cl",
            "frozen": run.frozen,
            "epochs": len(result.history),
            "best_epoch": result.best_epoch,
            "params_digest": records.params_digest(result.params),
        }
        card = encoders[run.pretrained][1] if run.pretrained else {}
        rows.append(_record(study, run, labelled, card, _scores(data, result) | own, seconds))
    return rows


def _encoder(study: Study, run: Task | Probe) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pre-trained encoder of a run, and what its checkpoint is about."""
    assert run.pretrained is not None
    return checkpoint.load_encoder(run.pretrained, run.view, **study.about(run.fold, [run.view]))


def _record(
    study: Study,
    run: Task | Probe,
    labelled: int,
    card: Mapping[str, Any],
    own: dict[str, Any],
    seconds: float,
) -> Row:
    return study.record(
        study.folder(run),
        fold=run.fold,
        view=run.view,
        title=study.title([run.view]),
        views=tuple(card.get("views", ())),
        temperature=card.get("temperature"),
        pretrained_on=card.get("pretrained on"),
        n_pretrained=card.get("pretraining utterances", 0),
        fraction=run.fraction,
        per_class=run.per_class,
        n_labelled=labelled,
        repeat=run.repeat,
        seconds=seconds,
        **own,
    )


def _scores(data: FoldData, result: finetuning.Finetuned | probing.Probed) -> dict[str, Any]:
    c = len(data.corpus.classes)
    test, validated = result.test.argmax(axis=-1), result.validation.argmax(axis=-1)
    truth = data.labels[data.labelled(data.test)]
    validation = data.labels[data.labelled(data.validation)]
    return {
        "uar": uar(truth, test, c),
        "wa": wa(truth, test),
        "recall": tuple(map(float, recall(truth, test, c))),
        "confusion": tuple(tuple(map(int, row)) for row in confusion(truth, test, c)),
        "validation_uar": uar(validation, validated, c),
        "validation_wa": wa(validation, validated),
    }


@_precisely
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
        params = finetuning.init_params(model, data.select_view(view).example()[view], seed=study.seed)[
            "encoder"
        ]
    elif of == "supervised":
        row = evaluate(study, Task(fold, view))
        params = checkpoint.load_arrays(study.runs / row["run"] / FINETUNED)[0]["encoder"]
    else:
        assert pretrained is not None
        params, _ = checkpoint.load_encoder(pretrained, view, **study.about(fold, [view]))
    return evaluation.represent(data, model, params, data.every_row, study.mesh)


@lru_cache(maxsize=8)
def _vectors(study: Study, fold: int, view: str, method: str, pretrained: Path | None) -> np.ndarray:
    """What a probe reads: the same for all shares and repeats of a fold, so kept for a while."""
    if method == "probe-raw":
        return probing.pool_features(study.data(fold), view)
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
    for row, prediction in zip(data.labelled(data.test), result.test.argmax(axis=-1), strict=True):
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
