"""Study: a corpus, its views and all settings; it knows where its runs lie and does what is missing.

The one place where folds, features, training, checkpoints and records meet; the command line and
the experiments call nothing else to train. Every run has a folder named by what it is, with a digest
of everything that decides its outcome, so the same question asked again finds its answer.
"""

import csv
import io
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from pcl_jax import checkpoint, records
from pcl_jax.config import Settings, digest
from pcl_jax.corpora.folds import Fold, labelled_subset, leave_one_session_out
from pcl_jax.corpora.utterance import Corpus, Utterance
from pcl_jax.encoders import Classifier, ProjectionHead
from pcl_jax.metrics import recall, uar, wa
from pcl_jax.records import Record
from pcl_jax.training import fold_data
from pcl_jax.training.devices import keep_compiled_programs, mesh
from pcl_jax.training.finetune import Finetuned, Model, finetune, represent
from pcl_jax.training.fold_data import FoldData
from pcl_jax.training.networks import Networks, init_encoder
from pcl_jax.training.pretrain import Progress, beginning, pretrain
from pcl_jax.training.probe import Probed, pooled
from pcl_jax.training.probe import probe as fit_probe
from pcl_jax.views import extract
from pcl_jax.views.store import Store
from pcl_jax.views.view import View

SAVE_EVERY_S = 5.0
"""A kill loses at most this much pre-training, or one epoch."""


class Watch(Protocol):
    """Told of each pre-training epoch: the row of metrics, and the most epochs there can be."""

    def __call__(self, row: Mapping[str, Any], epochs: int) -> None: ...


@dataclass(frozen=True)
class Task:
    """One fine-tuning."""

    fold: int
    view: str
    pretrained: Path | None = None
    """Folder of the pre-training whose encoder it starts from; None for supervised."""
    frozen: bool = False
    fraction: float = 1.0
    repeat: int = 0


@dataclass(frozen=True)
class Probe:
    """One logistic regression, on what an encoder reads or gives."""

    fold: int
    view: str
    method: Literal["probe-raw", "probe-random", "probe-pretrained"]
    """On pooled features; on the representation of a fresh encoder; on that of a pre-trained one."""
    pretrained: Path | None = None
    fraction: float = 1.0
    repeat: int = 0


@dataclass(frozen=True, eq=False)
class Study:
    """See the module. `stores` are those of `pcl_jax.views.extract`; views keep their order."""

    corpus: Corpus
    views: Mapping[str, View]
    stores: Mapping[str, Store]
    settings: Settings
    runs: Path
    mesh: Mesh
    seed: int = 0
    experiment: str = "study"
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Utterance id -> why it has no features: bad audio, left out of the corpus on request."""

    @cached_property
    def folds(self) -> Mapping[int, Fold]:
        return {fold.test_session: fold for fold in leave_one_session_out(self.corpus)}

    @cached_property
    def corpus_digest(self) -> str:
        """Of what decides folds and labels: ids, sessions, speakers, classes."""
        rows = [(u.id, u.session, u.speaker, self.corpus.label(u)) for u in self.corpus.utterances]
        return digest(rows, list(self.corpus.classes))

    def data(self, fold: int) -> FoldData:
        """The fold's features on the device; the latest is kept."""
        return self._data(fold)

    @cached_property
    def _data(self) -> Callable[[int], FoldData]:
        @lru_cache(maxsize=1)
        def load(fold: int) -> FoldData:
            return fold_data.load(
                self.corpus,
                self.folds[fold],
                self.stores,
                normalise=self._normalise,
                mesh=self.mesh,
                full_length=self._full_length,
            )

        return load

    @property
    def _normalise(self) -> dict[str, Any]:
        return {name: self.settings.normalise if v.normalised else "none" for name, v in self.views.items()}

    @property
    def _full_length(self) -> int | None:
        if self.settings.encoders.spectral_pool == "mean":
            return None
        mel = self.settings.mel
        return 1 + round(mel.clip.duration_s * mel.sampling_rate) // mel.hop

    def _about(self, fold: int, views: Iterable[str]) -> dict[str, Any]:
        """What encoders of these views are about: a checkpoint of anything else is refused."""
        return {
            "corpus": self.corpus.name,
            "utterances and sessions": self.corpus_digest,
            "fold": fold,
            "normalise": self.settings.normalise,
            "encoders": asdict(self.settings.encoders),
        } | {f"{view} features": digest(dict(self.views[view].describe())) for view in views}

    # Pre-training

    def pretraining_folder(self, fold: int) -> Path:
        """Where the pre-training of a fold lies, or will lie."""
        about = self._about(fold, self.views)
        name = digest(about, list(self.views), self.settings.pretraining, self.seed)
        return self.runs / self.corpus.name / f"pretrain-fold{fold}-{'+'.join(self.views)}-{name}"

    def pretrain(self, fold: int, watch: Watch | None = None) -> Path:
        """Pre-train on a fold, or go on where it stopped, or nothing if it is done; its folder.

        Raises:
            ValueError: fewer than two views, or too few utterances for a batch.
            FloatingPointError: the loss is no longer finite.
        """
        if len(self.views) < 2:
            raise ValueError(
                f"pre-training pulls views together, and there is only {', '.join(self.views) or 'none'}; "
                "give at least two with --views"
            )
        folder = self.pretraining_folder(fold)
        if (folder / checkpoint.ENCODERS).is_file():
            return folder
        config, data = self.settings.pretraining, self.data(fold)
        about = self._about(fold, self.views)
        card = about | {
            "views": list(self.views),
            "seed": self.seed,
            "settings": asdict(self.settings),
            "skipped": dict(self.skipped),
            "imputed values": dict(data.imputed),
            "versions": records.versions(),
        }
        checkpoint.write_atomically(folder / "run.json", json.dumps(card, indent=1).encode())
        head = ProjectionHead(initial=self.settings.encoders.init)
        networks = Networks(
            tuple((n, v.encoder(self.settings.encoders)) for n, v in self.views.items()), head
        )
        with checkpoint.states(folder / "states") as states:
            start = beginning(data, networks, seed=self.seed, mesh=self.mesh)
            progress = start = states.latest(start) or start
            history = _History(folder / "epochs.jsonl", upto=progress.epoch)
            saved, last = time.monotonic(), progress.epoch
            epochs = pretrain(data, networks, config, seed=self.seed, mesh=self.mesh, progress=start)
            try:
                for progress, row in epochs:
                    history.add(row)
                    if watch:
                        watch(row, config.epochs)
                    if time.monotonic() - saved > SAVE_EVERY_S:
                        self._save(states, history, progress)
                        saved, last = time.monotonic(), progress.epoch
            finally:
                if progress.epoch > last:
                    self._save(states, history, progress)
        best = jax.device_get(progress.best)
        self._record_pretraining(fold, folder, progress, history, best.params)
        about |= {"views": list(self.views), "temperature": config.temperature}
        checkpoint.save_arrays(folder / checkpoint.ENCODERS, best.params["encoder"], about)
        return folder

    @staticmethod
    def _save(states: checkpoint.States, history: "_History", progress: Progress) -> None:
        history.write()  # first: a state never knows of epochs that the history lacks
        states.save(progress.epoch, progress)

    def _record_pretraining(self, fold, folder, progress: Progress, history: "_History", params) -> None:
        if any(row["run"] == self.relative(folder) for row in records.read(self.runs)):
            return  # killed between the record and the encoders
        self._append(
            fold=fold,
            view="+".join(self.views),
            views=tuple(self.views),
            method="pretraining",
            temperature=self.settings.pretraining.temperature,
            validation_loss=float(progress.patience.best),
            epochs=progress.epoch,
            best_epoch=progress.best_epoch,
            seconds=sum(row["seconds"] for row in history.rows),
            config_digest=folder.name.rsplit("-", 1)[-1],
            params_digest=records.params_digest(params),
            run=self.relative(folder),
        )

    # Fine-tuning

    def subset(self, fold: int, fraction: float, repeat: int) -> tuple[Utterance, ...]:
        """The labelled training utterances of a repeat: the same for every method and view."""
        return labelled_subset(
            self.folds[fold].train, self.corpus, fraction=fraction, repeat=repeat, seed=self.seed
        )

    def folder(self, run: Task | Probe) -> Path:
        """Where a fine-tuning or probe lies, or will lie."""
        about = self._about(run.fold, [run.view])
        source = None if run.pretrained is None else run.pretrained.name
        if isinstance(run, Probe):
            kind, how = "probe", run.method.removeprefix("probe-")
            name = digest(about, self.seed, source)
        else:
            kind = "finetune"
            how = "supervised" if source is None else ("frozen" if run.frozen else "tuned")
            name = digest(about, self.settings.finetuning, self.seed, source, run.frozen)
        label = f"{kind}-fold{run.fold}-{run.view}-{how}-p{100 * run.fraction:g}-r{run.repeat}"
        return self.runs / self.corpus.name / f"{label}-{name}"

    def done(self) -> dict[str, dict[str, Any]]:
        """The records there are, by run folder."""
        return {row["run"]: row for row in records.read(self.runs)}

    def finetune(self, task: Task, done: Mapping[str, Mapping[str, Any]] | None = None) -> Mapping[str, Any]:
        """Fine-tune and test, unless there is a record of it; the record.

        Args:
            done: records already read, to spare reading them for each task of a grid.

        Raises:
            CheckpointError: the pre-trained encoder is not there, or of another fold, corpus or feature.
            ValueError: no labelled utterances.
        """
        folder = self.folder(task)
        if row := (self.done() if done is None else done).get(self.relative(folder)):
            return row
        began = time.monotonic()
        pretrained, card = None, {}
        if task.pretrained is not None:
            expected = self._about(task.fold, [task.view])
            pretrained, card = checkpoint.load_encoder(task.pretrained, task.view, **expected)
        data = self.data(task.fold)
        rows = data.rows(self.subset(task.fold, task.fraction, task.repeat))
        model = self.model(task.view)
        result = finetune(
            data,
            model,
            rows,
            self.settings.finetuning,
            pretrained=pretrained,
            frozen=task.frozen,
            repeat=task.repeat,
            seed=self.seed,
            mesh=self.mesh,
        )
        self._save_finetuning(folder, data, task, result)
        return self._append(
            **self._asked(task, card),
            method="supervised" if task.pretrained is None else "pairwise-cl",
            frozen=task.frozen,
            **self._scores(data, result),
            n_labelled=len(rows),
            epochs=len(result.history),
            best_epoch=result.best_epoch,
            seconds=time.monotonic() - began,
            config_digest=folder.name.rsplit("-", 1)[-1],
            params_digest=records.params_digest(jax.device_get(result.params)),
            run=self.relative(folder),
        )

    def model(self, view: str) -> Model:
        encoders = self.settings.encoders
        classifier = Classifier(len(self.corpus.classes), initial=encoders.init)
        return Model(view, self.views[view].encoder(encoders), classifier)

    def probe(self, probe: Probe, done: Mapping[str, Mapping[str, Any]] | None = None) -> Mapping[str, Any]:
        """Fit and test the probe, unless there is a record of it; the record."""
        folder = self.folder(probe)
        if row := (self.done() if done is None else done).get(self.relative(folder)):
            return row
        began = time.monotonic()
        data = self.data(probe.fold)
        vectors, card = self._vectors(probe.fold, probe.view, probe.method, probe.pretrained)
        rows = data.rows(self.subset(probe.fold, probe.fraction, probe.repeat))
        result = fit_probe(data, vectors, rows)
        return self._append(
            **self._asked(probe, card),
            method=probe.method,
            **self._scores(data, result),
            n_labelled=len(rows),
            epochs=0,
            best_epoch=0,
            seconds=time.monotonic() - began,
            config_digest=folder.name.rsplit("-", 1)[-1],
            params_digest="",
            run=self.relative(folder),
        )

    @cached_property
    def _vectors(self) -> Callable[..., tuple[np.ndarray, dict[str, Any]]]:
        @lru_cache(maxsize=4)
        def vectors(fold: int, view: str, method: str, pretrained: Path | None):
            data, model = self.data(fold), self.model(view)
            if method == "probe-raw":
                return pooled(data, view), {}
            if pretrained is None:
                example = data.of_view(view).example()[view]
                return represent(
                    data,
                    model,
                    init_encoder(model.encoder, example, view, seed=self.seed)[0],
                    data.all,
                    self.mesh,
                ), {}
            params, card = checkpoint.load_encoder(pretrained, view, **self._about(fold, [view]))
            return represent(data, model, params, data.all, self.mesh), card

        return vectors

    @staticmethod
    def _asked(run: Task | Probe, card: Mapping[str, Any]) -> dict[str, Any]:
        """The part of a record that says what was asked; `card` is the pre-training's."""
        return {
            "fold": run.fold,
            "view": run.view,
            "fraction": run.fraction,
            "repeat": run.repeat,
            "views": tuple(card.get("views", ())),
            "temperature": card.get("temperature"),
        }

    def _scores(self, data: FoldData, result: Finetuned | Probed) -> dict[str, Any]:
        """The part of a record that says what came out."""
        c = len(self.corpus.classes)
        truth = data.labels[data.labelled(data.test)]
        validation = data.labels[data.labelled(data.validation)]
        return {
            "uar": uar(truth, result.test, c),
            "wa": wa(truth, result.test),
            "recall": tuple(map(float, recall(truth, result.test, c))),
            "validation_uar": uar(validation, result.validation, c),
            "validation_wa": wa(validation, result.validation),
        }

    def _save_finetuning(self, folder: Path, data: FoldData, task: Task, result: Finetuned) -> None:
        about = self._about(task.fold, [task.view]) | {"view": task.view, "classes": self.corpus.classes}
        arrays = result.params | {"scale": dict(result.scale._asdict())}
        checkpoint.save_arrays(folder / "model.safetensors", jax.device_get(arrays), about)
        lines = "".join(json.dumps(row) + "\n" for row in result.history)
        checkpoint.write_atomically(folder / "epochs.jsonl", lines.encode())
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(("id", "truth", "prediction"))
        for row, prediction in zip(data.labelled(data.test), result.test, strict=True):
            classes = self.corpus.classes
            writer.writerow((data.ids[row], classes[data.labels[row]], classes[prediction]))
        checkpoint.write_atomically(folder / "predictions.csv", table.getvalue().encode())

    # Records

    def relative(self, folder: Path) -> str:
        """A run's folder as records name it."""
        return str(folder.relative_to(self.runs))

    def _append(self, **values: Any) -> Mapping[str, Any]:
        blank = {
            "frozen": False, "fraction": 0.0, "n_labelled": 0, "repeat": 0, "temperature": None, "uar": None,
            "wa": None, "recall": None, "validation_uar": None, "validation_wa": None, "validation_loss": None,
        }  # fmt: skip
        record = Record(
            experiment=self.experiment,
            corpus=self.corpus.name,
            synthetic=self.corpus.synthetic,
            seed=self.seed,
            classes=self.corpus.classes,
            versions=records.versions(),
            device=records.device(),
            **blank | values,
        )
        records.append(self.runs, record)
        return asdict(record)


def open_study(
    corpus: Corpus,
    views: Mapping[str, View],
    settings: Settings,
    *,
    features: Path,
    runs: Path,
    seed: int,
    workers: int | None = None,
    on_bad_audio: Literal["error", "skip"] = "error",
    devices: int | None = None,
    experiment: str = "study",
    progress: extract.Progress | None = None,
) -> Study:
    """Extract what features are missing, and open a study on them.

    Raises:
        AudioErrors: all the audio that cannot be used, unless it is to be skipped.
        CorpusError: the corpus has no five folds.
    """
    keep_compiled_programs()
    extraction = extract.extract(
        corpus, list(views.values()), features, workers=workers, on_bad_audio=on_bad_audio, progress=progress
    )
    kept = tuple(u for u in corpus.utterances if u.id not in extraction.skipped)
    study = Study(
        replace(corpus, utterances=kept),
        views,
        extraction.stores,
        settings,
        runs,
        mesh(devices),
        seed,
        experiment,
        {id: str(error) for id, error in extraction.skipped.items()},
    )
    _ = study.folds  # a corpus without folds is an error now, not after an hour
    return study


class _History:
    """The metrics of each epoch, one JSON row each; rewritten whole, so that it is never torn."""

    def __init__(self, path: Path, upto: int):
        self._path = path
        lines = path.read_text().splitlines() if path.is_file() else []
        self.rows = [row for row in map(json.loads, lines) if row["epoch"] <= upto]

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def write(self) -> None:
        lines = "".join(json.dumps(row) + "\n" for row in self.rows)
        checkpoint.write_atomically(self._path, lines.encode())
