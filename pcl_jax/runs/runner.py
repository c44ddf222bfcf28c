"""Runner: does the runs that are asked for and not finished yet.

The one place where data, training, checkpoints and records meet. Commands and experiments train through it
and through nothing else.
"""

import csv
import io
import json
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from pcl_jax.config import Settings
from pcl_jax.corpora.folds import labelled_subset, leave_one_session_out
from pcl_jax.corpora.utterance import Corpus, Utterance
from pcl_jax.data.fold import FoldData
from pcl_jax.data.load import ExtraCorpus, FoldLoader
from pcl_jax.devices import barrier, mesh, preemption_requested
from pcl_jax.evaluation.metrics import confusion, recall, uar, wa
from pcl_jax.features.store import Store
from pcl_jax.models.encoders import ENCODERS, fixed_lengths
from pcl_jax.models.heads import Classifier, ProjectionHead
from pcl_jax.models.networks import ClassifierNetwork, PretrainingNetworks
from pcl_jax.runs import checkpoint, pretraining, records
from pcl_jax.runs.files import write_atomically
from pcl_jax.runs.history import History
from pcl_jax.runs.ledger import Ledger, Predictions, RunBusy, wait_for_others
from pcl_jax.runs.pretraining import Watch
from pcl_jax.runs.protocol import Protocol, audio_fingerprint, protocol_of
from pcl_jax.runs.records import Record, Row
from pcl_jax.runs.spec import (
    Finetune,
    Pretrain,
    Probe,
    SavedEncoders,
    Scored,
    Spec,
    settings_in_full,
    views_of,
)
from pcl_jax.training import finetune as finetuning
from pcl_jax.training import parallel_runs, represent
from pcl_jax.training import probe as probing
from pcl_jax.training.objectives import build_objective
from pcl_jax.training.pretrain import pretraining_rows
from pcl_jax.views.view import View

Source = Literal["random", "pretrained", "supervised"]
"""Encoder of a representation: a fresh one, that of a pre-training, or that of a network trained from scratch
on all labels (repeat 0)."""


@dataclass(frozen=True, eq=False)
class Runner:
    """A corpus with its views, ready to train on; `commands.session` opens one."""

    corpus: Corpus
    views: Mapping[str, View]
    settings: Settings
    """Settings of the command: specs that `pretraining` makes have them."""
    protocol: Protocol
    ledger: Ledger
    loader: FoldLoader
    mesh: Mesh
    experiment: str = ""
    """Name that records have of what the runs were done for."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Utterance id -> why it has no features: bad audio, left out on request."""
    extra_corpora: Mapping[str, ExtraCorpus] = field(default_factory=dict)

    def pretraining(self, fold: int, **changes: Any) -> Pretrain:
        """Return the spec of a fold's pre-training with all views, and some of its settings changed."""
        options = replace(self.settings.pretraining, **changes)
        return Pretrain(fold, tuple(self.views), settings=replace(self.settings, pretraining=options))

    def title(self, views: Iterable[str]) -> str:
        """Return the names of these views in tables."""
        return ", ".join(self.views[view].title for view in views)

    def data(self, spec: Spec) -> FoldData:
        """Load the features that a run reads."""
        names, settings = views_of(spec), spec.settings
        encoders = {name: self._encoder(name, settings) for name in names}
        extra = spec.extra_corpora if isinstance(spec, Pretrain) else ()
        return self.loader.load(
            spec.fold,
            names,
            normalise={name: settings.normalise for name in names if self.views[name].normalised},
            fixed_lengths=fixed_lengths(encoders),
            extra_corpora=[self.extra_corpora[name] for name in extra],
        )

    def network(self, view: str, settings: Settings) -> ClassifierNetwork:
        """Return the network that fine-tuning trains."""
        classifier = Classifier(len(self.corpus.classes), settings.encoders.init)
        return ClassifierNetwork(view, self._encoder(view, settings), classifier)

    def pretraining_networks(self, spec: Pretrain) -> PretrainingNetworks:
        """Return the networks that pre-training trains."""
        encoders = tuple((view, self._encoder(view, spec.settings)) for view in spec.views)
        return PretrainingNetworks(encoders, ProjectionHead(initial=spec.settings.encoders.init))

    def _encoder(self, view: str, settings: Settings) -> nn.Module:
        return ENCODERS[self.views[view].kind](self.views[view], settings.encoders)

    def labelled(self, spec: Scored) -> tuple[Utterance, ...]:
        """Return the labelled training utterances of a run: the same for every method and view."""
        labels = spec.labels
        return labelled_subset(
            self.loader.folds[spec.fold].train,
            self.corpus,
            fraction=None if labels.per_class else labels.fraction,
            per_class=labels.per_class,
            repeat=labels.repeat,
            seed=self.protocol.seed,
        )

    # Pre-training

    def pretrain(self, spec: Pretrain, watch: Watch | None = None) -> Path:
        """Pre-train, or resume where it stopped, or do nothing if it is finished; return the run's folder.

        Raises:
            ValueError: fewer than two views, or too few utterances for a batch.
            FloatingPointError: the loss is no longer finite.
            RunBusy: another process is doing this run.
        """
        if len(spec.views) < 2:
            raise ValueError(
                f"pre-training pulls views together, and there is only {', '.join(spec.views) or 'none'}; "
                "give at least two with --views"
            )
        build_objective(spec.settings.pretraining)  # an unknown name is refused before anything is written
        folder = self.ledger.folder(spec)
        if self.ledger.find(spec):
            return folder
        with self._claim([spec]) as claimed:
            if not claimed:
                raise RunBusy(f"{folder} is being trained by another process; wait for it, or stop it")
            if not self.ledger.find(spec):
                self._pretrain(spec, folder, watch)
        barrier("pretrained")
        return folder

    def _pretrain(self, spec: Pretrain, folder: Path, watch: Watch | None) -> None:
        data, options = self.data(spec), spec.settings.pretraining
        networks = self.pretraining_networks(spec)
        card = self.card(spec) | {
            "skipped": dict(self.skipped),
            "imputed values": dict(data.imputed),
            "feature stores": self._stores(spec),
            "versions": records.versions(),
        }
        write_atomically(folder / checkpoint.CARD, json.dumps(card, indent=1).encode())
        with jax.default_matmul_precision(spec.settings.precision):
            progress, history = pretraining.train(
                data, networks, options, seed=self.protocol.seed, mesh=self.mesh, folder=folder, watch=watch
            )
        params = jax.device_get(progress.best.params)
        count = len(pretraining_rows(data, options, seed=self.protocol.seed))
        header = self.protocol.encoder_fingerprint(spec.fold, spec.views, spec.settings) | {
            "identity": self.protocol.identity(spec),
            "views": list(spec.views),
            "settings": settings_in_full(spec),
            "pretrained on": pretrained_on(spec),
            "pretraining utterances": count,
        }
        checkpoint.save_arrays(folder / checkpoint.ENCODERS, params["encoder"], header)
        self.record(
            spec,
            view="+".join(spec.views),
            views=spec.views,
            method="pretraining",
            temperature=options.temperature,
            pretrained_on=pretrained_on(spec),
            n_pretrained=count,
            validation_loss=float(progress.patience.best),
            epochs=progress.epoch,
            best_epoch=progress.best_epoch,
            seconds=sum(row["seconds"] for row in history.rows),
            params_digest=records.params_digest(params),
        )
        pretraining.remove_states(folder)

    def card(self, spec: Pretrain) -> dict[str, Any]:
        """Return the description of a pre-training: what must be equal for one to resume from another."""
        return self.protocol.encoder_fingerprint(spec.fold, spec.views, spec.settings) | {
            "views": list(spec.views),
            "seed": self.protocol.seed,
            "settings": settings_in_full(spec),
            "extra corpora": list(spec.extra_corpora),
        }

    def stopped_elsewhere(self, spec: Pretrain) -> Iterator[str]:
        """Yield a line for each stopped pre-training from which this one cannot resume."""
        return pretraining.stopped_elsewhere(self.ledger.folder(spec), self.card(spec))

    def _stores(self, spec: Pretrain) -> list[str]:
        """Names of the feature stores that a run reads: those that `pcl features gc` must keep."""
        corpora = [self.loader.stores, *(self.extra_corpora[name].stores for name in spec.extra_corpora)]
        return [
            f"{store.folder.parent.name}/{store.folder.name}"
            for stores in corpora
            for store in (stores[view] for view in spec.views)
        ]

    # Fine-tuning and probes

    def run_one(self, spec: Scored) -> Row:
        """Do one run unless it is finished; return its record. Raises: as `run_all`."""
        (row,) = self.run_all([spec])
        return row

    def run_all(self, specs: Iterable[Scored]) -> Iterator[Row]:
        """Do all runs that are not finished; yield the record of each, finished ones first.

        Fine-tunings that differ in their repeat and in where they start alone are trained by one program, as
        far as that is faster; their records come together. Runs that another process is doing come last.

        Raises:
            CheckpointError: a pre-trained encoder is missing, or is of another fold, corpus or feature.
            ValueError: no labelled utterances.
            FloatingPointError: the loss of a fine-tuning is no longer finite.
        """
        asked = list(dict.fromkeys(specs))
        finished = self.ledger.finished_records(asked)
        yield from finished
        names = {row["run"] for row in finished}
        remaining = [spec for spec in asked if self.ledger.name(spec) not in names]
        while remaining:
            busy: list[Scored] = []
            for group in self._groups(remaining):
                with self._claim(group) as claimed:
                    busy += [spec for spec in group if spec not in claimed]
                    fresh = [spec for spec in claimed if not self.ledger.find(spec)]
                    rows = self._do(fresh) if fresh else iter(())
                    for row in rows:
                        yield row
                        if preemption_requested():
                            raise KeyboardInterrupt
                    barrier("evaluated")
                finished_meanwhile = [spec for spec in claimed if spec not in fresh]
                yield from self.ledger.finished_records(finished_meanwhile)
            if len(busy) == len(remaining):
                wait_for_others()
            remaining = busy

    def _claim(self, specs: Sequence[Any]) -> AbstractContextManager[list[Any]]:
        """Claim runs; of several processes that train as one, the first claims for all, and waits."""
        if jax.process_index() > 0:
            return nullcontext(list(specs))
        return self.ledger.claim(specs, wait=jax.process_count() > 1)

    def _groups(self, specs: Iterable[Scored]) -> Iterator[list[Any]]:
        """Group runs that train as one program, or that read the same vectors, in the order of the first."""
        alike: dict[object, list[Scored]] = defaultdict(list)
        for spec in specs:
            if isinstance(spec, Probe):
                kind: tuple = (spec.fold, spec.view, spec.settings, spec.method, spec.start)
            else:
                amount = spec.labels.fraction, spec.labels.per_class
                kind = (spec.fold, spec.view, spec.settings, amount, spec.frozen, spec.frozen and spec.start)
            alike[kind].append(spec)
        for group in alike.values():
            first, size = group[0], len(group)
            if isinstance(first, Finetune):
                data, network = self.data(first), self.network(first.view, first.settings)
                size = parallel_runs.max_runs_per_program(data, network, self.mesh, frozen=first.frozen)
            for begin in range(0, len(group), size):
                yield group[begin : begin + size]

    def _do(self, group: Sequence[Any]) -> Iterator[Row]:
        with jax.default_matmul_precision(group[0].settings.precision):
            if isinstance(group[0], Probe):
                yield from self._probe(group)
            else:
                yield from self._finetune(group)

    def _probe(self, group: Sequence[Probe]) -> Iterator[Row]:
        """Fit each probe; the vectors are the same for all."""
        first = group[0]
        data = self.data(first)
        if first.method == "probe-raw":
            vectors = probing.pool_features(data, first.view)
        else:
            source: Source = "random" if first.method == "probe-random" else "pretrained"
            vectors = self._represent(first, source)
        card = self.ledger.encoder(first.start, first, first.view)[1] if first.start else {}
        for spec in group:
            began = time.monotonic()
            rows = data.rows(self.labelled(spec))
            result = probing.probe(data, vectors, rows)
            scores = _scores(data, result) | {"method": spec.method}
            self._save_predictions(spec, data, result)
            yield self._record(spec, len(rows), card, scores, time.monotonic() - began)

    def _finetune(self, group: Sequence[Finetune]) -> Iterator[Row]:
        """Train the runs of one program."""
        began = time.monotonic()
        first = group[0]
        starts = {
            spec.start: self.ledger.encoder(spec.start, spec, spec.view)
            for spec in group
            if spec.start is not None
        }
        data = self.data(first)
        results = finetuning.finetune(
            data,
            self.network(first.view, first.settings),
            [
                finetuning.Run(
                    data.rows(self.labelled(spec)),
                    spec.labels.repeat,
                    starts[spec.start][0] if spec.start else None,
                )
                for spec in group
            ],
            first.settings.finetuning,
            frozen=first.frozen,
            seed=self.protocol.seed,
            mesh=self.mesh,
        )
        n_labelled = len(self.labelled(first))
        seconds = (time.monotonic() - began) / len(group)
        for spec, result in zip(group, results, strict=True):
            self._save_finetuned(spec, data, result)
            facts = {
                "method": spec.method,
                "frozen": spec.frozen,
                "epochs": len(result.history),
                "best_epoch": result.best_epoch,
                "params_digest": records.params_digest(result.params),
            }
            card = starts[spec.start][1] if spec.start else {}
            yield self._record(spec, n_labelled, card, _scores(data, result) | facts, seconds)

    def _save_finetuned(self, spec: Finetune, data: FoldData, result: finetuning.Finetuned) -> None:
        """Write the best model with the statistics that it needs, the history, and the predictions."""
        folder = self.ledger.folder(spec)
        card = self.protocol.encoder_fingerprint(spec.fold, (spec.view,), spec.settings) | {
            "view": spec.view,
            "classes": list(self.corpus.classes),
        }
        arrays = result.params | {"scale": result.scale._asdict()}
        if normaliser := data.normalisers.get(spec.view):
            statistics = normaliser.to_arrays()
            card |= {name: statistics.pop(name).tolist() for name in ("method", "keys")}
            arrays |= {"normaliser": statistics}
        checkpoint.save_arrays(folder / checkpoint.FINETUNED, jax.device_get(arrays), card)
        history = History(folder, last_epoch=0)
        history.rows.extend(result.history)
        history.write()
        self._save_predictions(spec, data, result)

    def _save_predictions(
        self, spec: Scored, data: FoldData, result: finetuning.Finetuned | probing.Probed
    ) -> None:
        """Write log-probabilities, and the predicted classes of the test session as a table."""
        classes, test = data.corpus.classes, data.labelled(data.test)
        ids = [tuple(data.ids[row] for row in rows) for rows in (data.labelled(data.validation), test)]
        self.ledger.save_predictions(
            spec, Predictions(tuple(classes), ids[0], result.validation, ids[1], result.test)
        )
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(("id", "truth", "prediction"))
        for row, prediction in zip(test, result.test.argmax(axis=1), strict=True):
            writer.writerow((data.ids[row], classes[data.labels[row]], classes[prediction]))
        write_atomically(self.ledger.folder(spec) / "predictions.csv", table.getvalue().encode())

    # Representations

    def representations(self, start: Pretrain, view: str, source: Source, settings: Settings) -> np.ndarray:
        """Return the representations `[n, d]` of all utterances of a fold by the encoder of a view.

        Args:
            start: pre-training whose fold is read, and whose encoder where `source` is "pretrained".
            view: name of the view.
            source: where the encoder comes from; a supervised network is trained now if it is missing.
            settings: settings of the supervised network.
        """
        spec = Finetune(start.fold, view, start if source == "pretrained" else None, settings=settings)
        if source == "supervised":
            self.run_one(spec)
        with jax.default_matmul_precision(settings.precision):
            return self._represent(spec, source)

    def _represent(self, spec: Scored, source: Source) -> np.ndarray:
        data, network = self.data(spec), self.network(spec.view, spec.settings)
        if source == "random":
            example = data.example()[spec.view]
            params = finetuning.init_params(network, example, seed=self.protocol.seed)["encoder"]
        elif source == "supervised":
            path = self.ledger.folder(spec) / checkpoint.FINETUNED
            params = checkpoint.load_arrays(path)[0]["encoder"]
        else:
            assert spec.start is not None
            params, _ = self.ledger.encoder(spec.start, spec, spec.view)
        return represent.represent(data, network, params, data.every_row, self.mesh)

    # Records

    def record(self, spec: Spec, **values: Any) -> Row:
        """Record a run whose files are written: it is finished then."""
        labels = [self.corpus.label(u) for u in self.corpus.utterances]
        names = views_of(spec)
        record = Record(
            **{
                "experiment": self.experiment,
                "corpus": self.corpus.name,
                "synthetic": self.corpus.synthetic,
                "seed": self.protocol.seed,
                "fold": spec.fold,
                "title": self.title(names),
                "features": {view: self.protocol.features[view] for view in names},
                "recordings": self.protocol.recordings,
                "label_digest": self.protocol.labels,
                "classes": self.corpus.classes,
                "counts": tuple(map(labels.count, range(len(self.corpus.classes)))),
                "utterances": len(labels),
                "skipped": len(self.skipped) + self.corpus.left_out.count,
                "normalise": spec.settings.normalise,
                "settings": settings_in_full(spec),
                "protocol": self.protocol.data,
                "versions": records.versions(),
                "device": records.device(),
                "config_digest": self.protocol.identity(spec),
                "run": self.ledger.name(spec),
            }
            | values
        )
        return self.ledger.add(spec, record)

    def _record(
        self, spec: Scored, n_labelled: int, card: Mapping[str, Any], facts: dict[str, Any], seconds: float
    ) -> Row:
        """Record a run that scores; `card` describes the pre-training that it starts from."""
        pretrained = card.get("settings", {}).get("pretraining")
        if pretrained:
            facts["settings"] = settings_in_full(spec) | {"pretraining": pretrained}
        return self.record(
            spec,
            view=spec.view,
            views=tuple(card.get("views", ())),
            start=card.get("identity"),
            temperature=pretrained["temperature"] if pretrained else None,
            pretrained_on=card.get("pretrained on"),
            n_pretrained=card.get("pretraining utterances", 0),
            fraction=spec.labels.fraction,
            per_class=spec.labels.per_class,
            repeat=spec.labels.repeat,
            n_labelled=n_labelled,
            seconds=seconds,
            **facts,
        )


def pretrained_on(spec: Pretrain) -> str:
    """Return what a pre-training sees, as records say it: "all", "target", "all + ravdess"."""
    options = spec.settings.pretraining
    amount = "" if options.utterances is None else f", {options.utterances} utterances"
    return options.subset + "".join(f" + {name}" for name in spec.extra_corpora) + amount


def saved_encoders(folder: Path) -> SavedEncoders:
    """Return the pre-training in a folder, identified by what made its encoders.

    Raises:
        CheckpointError: no finished pre-training there, or one of a version before 0.2.
    """
    folder = folder.resolve()
    checkpoint.require_encoders(folder)
    identity = checkpoint.load_card(folder / checkpoint.ENCODERS).get("identity")
    if identity is None:
        raise checkpoint.CheckpointError(f"{folder} is of an older version of pcl_jax; pre-train again")
    return SavedEncoders(folder, identity)


def _scores(data: FoldData, result: finetuning.Finetuned | probing.Probed) -> dict[str, Any]:
    """Score predictions: UAR, WA, recalls and confusions of the test session, UAR and WA of validation."""
    c = len(data.corpus.classes)
    truth, predicted = data.labels[data.labelled(data.test)], result.test.argmax(axis=1)
    validation = data.labels[data.labelled(data.validation)]
    return {
        "uar": uar(truth, predicted, c),
        "wa": wa(truth, predicted),
        "recall": tuple(map(float, recall(truth, predicted, c))),
        "confusion": tuple(tuple(map(int, row)) for row in confusion(truth, predicted, c)),
        "validation_uar": uar(validation, result.validation.argmax(axis=1), c),
        "validation_wa": wa(validation, result.validation.argmax(axis=1)),
    }


def open_runner(
    corpus: Corpus,
    views: Mapping[str, View],
    stores: Mapping[str, Store],
    settings: Settings,
    *,
    runs: Path,
    seed: int = 0,
    devices: int | None = None,
    experiment: str = "",
    memory_share: float = 0.5,
    skipped: Mapping[str, str] | None = None,
    extra_corpora: Mapping[str, ExtraCorpus] | None = None,
) -> Runner:
    """Return the runner of a corpus whose features are in these stores.

    Args:
        corpus: its utterances all have features.
        views: in the order in which pre-training takes them.
        stores: features of each view.
        settings: settings of the command.
        runs: folder of all runs.
        seed: names every random draw.
        devices: number of devices; None: all.
        experiment: name that records have of what the runs are done for.
        memory_share: share of a device's memory that a fold's features may take; it changes no result.
        skipped: utterance id -> why it was left out.
        extra_corpora: additional corpora for pre-training, by name.

    Raises:
        CorpusError: the corpus has no five folds.
        ValueError: an additional corpus holds a recording of this one.
    """
    extra = dict(extra_corpora or {})
    _require_other_recordings(corpus, stores, extra)
    on = mesh(devices)
    folds = {fold.test_session: fold for fold in leave_one_session_out(corpus)}
    fingerprints = {name: audio_fingerprint(added.corpus, added.stores) for name, added in extra.items()}
    protocol = protocol_of(corpus, views, stores, seed=seed, extra_corpora=fingerprints)
    loader = FoldLoader(corpus, folds, stores, on, memory_share)
    ledger = Ledger(runs, protocol)
    return Runner(
        corpus, views, settings, protocol, ledger, loader, on, experiment, dict(skipped or {}), extra
    )


def _require_other_recordings(
    corpus: Corpus, stores: Mapping[str, Store], extra_corpora: Mapping[str, ExtraCorpus]
) -> None:
    """Refuse an additional corpus that holds a recording of this one: its test speakers would be heard."""
    store = next(iter(stores.values()))
    known = {store.audio_digest(u.id): u.id for u in corpus.utterances}
    for name, extra in extra_corpora.items():
        extra_store = next(iter(extra.stores.values()))
        for u in extra.corpus.utterances:
            if same := known.get(extra_store.audio_digest(u.id)):
                raise ValueError(
                    f"{u.id} of {name} is the same recording as {same} of {corpus.name}: pre-training would "
                    "hear test speakers; leave it out"
                )
