"""Runner: does the runs that are asked for and not finished yet.

The one place where data, training, checkpoints and records meet. Commands and experiments train through it
and through nothing else.
"""

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from pcl_jax.config import Settings
from pcl_jax.corpora.folds import leave_one_session_out
from pcl_jax.corpora.utterance import Corpus
from pcl_jax.data.load import ExtraCorpus, FoldLoader
from pcl_jax.devices import barrier, mesh, preemption_requested
from pcl_jax.features.store import Store
from pcl_jax.runs import checkpoint, few_labels, pretraining, records, results
from pcl_jax.runs.files import write_atomically
from pcl_jax.runs.ledger import Ledger, RunBusy, wait_for_others
from pcl_jax.runs.pretraining import Watch
from pcl_jax.runs.protocol import audio_fingerprint, protocol_of
from pcl_jax.runs.records import Row
from pcl_jax.runs.spec import FewLabels, Finetune, Pretrain, Probe, Scored, settings_in_full
from pcl_jax.runs.workspace import Workspace, require_other_recordings
from pcl_jax.training import finetune as finetuning
from pcl_jax.training import parallel_runs, represent
from pcl_jax.training import probe as probing
from pcl_jax.training.objectives import build_objective
from pcl_jax.training.pretrain import choose_rows, pretraining_rows
from pcl_jax.views.view import View

Source = Literal["random", "pretrained", "supervised"]
"""Encoder of a representation: a fresh one, that of a pre-training, or that of a network trained from scratch
on all labels (repeat 0)."""


@dataclass(frozen=True, eq=False)
class Runner(Workspace):
    """A workspace that does its runs; `open_runner` makes one, for commands `commands.session` does."""

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
        choose_rows(data, options, self.protocol.seed)  # a run that is refused leaves no folder
        networks = self.pretraining_networks(spec)
        card = self.card(spec) | {
            "skipped": dict(self.skipped),
            "imputed values": dict(data.imputed),
            "feature stores": self.stores_read(spec),
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
            "pretrained on": results.pretrained_on(spec),
            "pretraining utterances": count,
        }
        checkpoint.save_arrays(folder / checkpoint.ENCODERS, params["encoder"], header)
        self.record(
            spec,
            view="+".join(spec.views),
            views=spec.views,
            method="pretraining",
            temperature=options.temperature,
            pretrained_on=results.pretrained_on(spec),
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
        wanted = list(dict.fromkeys(specs))
        finished = self.ledger.finished_records(wanted)
        yield from finished
        names = {row["run"] for row in finished}
        remaining = [spec for spec in wanted if self.ledger.name(spec) not in names]
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
        groups: dict[object, list[Scored]] = defaultdict(list)
        for spec in specs:
            if isinstance(spec, FewLabels):
                kind: tuple = (spec.fold, spec.views, spec.settings, spec.start)
            elif isinstance(spec, Probe):
                kind = (spec.fold, spec.view, spec.settings, spec.method, spec.start)
            else:
                amount = spec.labels.fraction, spec.labels.per_class
                kind = (spec.fold, spec.view, spec.settings, amount, spec.frozen, spec.frozen and spec.start)
            groups[kind].append(spec)
        for group in groups.values():
            first, size = group[0], len(group)
            if isinstance(first, Finetune):
                data, network = self.data(first), self.network(first.view, first.settings)
                size = parallel_runs.max_runs_per_program(data, network, self.mesh, frozen=first.frozen)
            for begin in range(0, len(group), size):
                yield group[begin : begin + size]

    def _do(self, group: Sequence[Any]) -> Iterator[Row]:
        match group[0]:
            case FewLabels():
                rows = self._few_labels(group)
            case Probe():
                rows = self._probe(group)
            case _:
                rows = self._finetune(group)
        while True:
            with jax.default_matmul_precision(group[0].settings.precision):  # left before a row is handed out
                row = next(rows, None)
            if row is None:
                return
            yield row

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
            scores = results.scores(data, result) | {"method": spec.method}
            results.save_predictions(self.ledger, spec, data, result)
            yield self._record(spec, len(rows), card, scores, time.monotonic() - began)

    def _few_labels(self, group: Sequence[FewLabels]) -> Iterator[Row]:
        """Train and test a method each; the vectors are the same for all."""
        first, card, representations = group[0], {}, {}
        if start := first.start:
            card = self.ledger.encoder(start, first, first.views[0])[1]
            for view in first.views:
                representations[view] = self.representations(start, view, "pretrained", first.settings)
        material = few_labels.read(self, first, representations)
        for spec in group:
            began = time.monotonic()
            facts = few_labels.run(self, spec, material)
            yield self._record(spec, facts.pop("n_labelled"), card, facts, time.monotonic() - began)

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
        outcomes = finetuning.finetune(
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
        for spec, result in zip(group, outcomes, strict=True):
            results.save_finetuned(self.ledger, spec, data, result)
            facts = {
                "method": spec.method,
                "frozen": spec.frozen,
                "epochs": len(result.history),
                "best_epoch": result.best_epoch,
                "params_digest": records.params_digest(result.params),
            }
            card = starts[spec.start][1] if spec.start else {}
            yield self._record(spec, n_labelled, card, results.scores(data, result) | facts, seconds)

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
            params = finetuning.init_params(network, example, spec.fold, seed=self.protocol.seed)["encoder"]
        elif source == "supervised":
            path = self.ledger.folder(spec) / checkpoint.FINETUNED
            params = checkpoint.load_arrays(path)[0]["encoder"]
        else:
            assert spec.start is not None
            params, _ = self.ledger.encoder(spec.start, spec, spec.view)
        return represent.represent(data, network, params, data.every_row, self.mesh)

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
    require_other_recordings(corpus, stores, extra)
    on = mesh(devices)
    folds = {fold.test_session: fold for fold in leave_one_session_out(corpus)}
    fingerprints = {name: audio_fingerprint(added.corpus, added.stores) for name, added in extra.items()}
    protocol = protocol_of(corpus, views, stores, seed=seed, extra_corpora=fingerprints)
    loader = FoldLoader(corpus, folds, stores, on, memory_share)
    ledger = Ledger(runs, protocol)
    return Runner(
        corpus, views, settings, protocol, ledger, loader, on, experiment, dict(skipped or {}), extra
    )
