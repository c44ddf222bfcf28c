"""Study: a corpus, its views and all settings; where its runs lie, and the record of each.

Every run has a folder named by what it is, with a digest of everything that decides its outcome, so
the same question asked again finds its answer. `pcl_jax.runs.runner` does the runs.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from jax.sharding import Mesh

from pcl_jax.config import Pretraining, Settings, digest
from pcl_jax.corpora.folds import Fold, labelled_subset, leave_one_session_out
from pcl_jax.corpora.utterance import Corpus, Utterance
from pcl_jax.data.fold import FoldData
from pcl_jax.data.load import ExtraCorpus, FoldLoader
from pcl_jax.data.normalise import Normalisation
from pcl_jax.devices import mesh
from pcl_jax.features.extract import Extraction
from pcl_jax.features.store import Store
from pcl_jax.models.encoders import fixed_lengths
from pcl_jax.models.heads import Classifier, ProjectionHead
from pcl_jax.models.networks import ClassifierNetwork, PretrainingNetworks
from pcl_jax.runs import records
from pcl_jax.runs.records import Record
from pcl_jax.views.view import View


@dataclass(frozen=True)
class Pretrain:
    """One pre-training, of all views of the study."""

    fold: int


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
    per_class: int | None = None
    """So many labelled utterances of each class, instead of a fraction."""


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
    per_class: int | None = None
    """So many labelled utterances of each class, instead of a fraction."""


@dataclass(frozen=True, eq=False)
class Study:
    """See the module; `open_study` makes one."""

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
    resident: float = 0.5
    """The share of a device's memory that a fold's features may take; no result depends on it."""
    beside: tuple[ExtraCorpus, ...] = ()
    """Other corpora that every fold is pre-trained on as well."""

    @cached_property
    def folds(self) -> Mapping[int, Fold]:
        return {fold.test_session: fold for fold in leave_one_session_out(self.corpus)}

    @cached_property
    def corpus_digest(self) -> str:
        """Of what decides folds, labels and features: ids, audio, sessions, speakers, classes."""
        store = next(iter(self.stores.values()))
        rows = [
            (u.id, store.audio_digest(u.id), u.session, u.speaker, self.corpus.label(u))
            for u in self.corpus.utterances
        ]
        return digest(rows, list(self.corpus.classes))

    @property
    def pretrained_on(self) -> str:
        """What pre-training sees, as records say it: "all", "target", "all + ravdess, 300 utterances"."""
        pretraining = self.settings.pretraining
        amount = "" if pretraining.utterances is None else f", {pretraining.utterances} utterances"
        return pretraining.subset + "".join(f" + {other.corpus.name}" for other in self.beside) + amount

    def title(self, views: Iterable[str]) -> str:
        """These views as tables name them."""
        return ", ".join(self.views[view].title for view in views)

    def data(self, fold: int) -> FoldData:
        """The fold's features on the device; the latest fold's are kept."""
        return self._data(fold, ())

    def pretraining_data(self, fold: int) -> FoldData:
        """The same with the other corpora's beside them."""
        return self._data(fold, self.beside)

    @cached_property
    def _data(self) -> Callable[[int, tuple[ExtraCorpus, ...]], FoldData]:
        normalise: dict[str, Normalisation] = {
            name: self.settings.normalise for name, view in self.views.items() if view.normalised
        }
        encoders = {name: view.encoder(self.settings.encoders) for name, view in self.views.items()}
        loader = FoldLoader(self.corpus, self.folds, self.stores, self.mesh, self.resident)
        views = tuple(self.stores)
        return lambda fold, beside: loader.load(
            fold, views, normalise=normalise, fixed_lengths=fixed_lengths(encoders), extra_corpora=beside
        )

    def pretraining_with(self, **changes: Any) -> "Study":
        """The same study with other settings of pre-training; the features, which stay, are shared."""
        pretraining = replace(self.settings.pretraining, **changes)
        other = replace(self, settings=replace(self.settings, pretraining=pretraining))
        other.__dict__["_data"] = self._data
        return other

    def pretraining_beside(self, others: Iterable[ExtraCorpus]) -> "Study":
        """The same study, pre-trained on the speech of other corpora as well.

        Raises:
            ValueError: one of them holds a recording of this corpus: its test speakers would be heard.
        """
        others = tuple(others)
        store = next(iter(self.stores.values()))
        own = {store.audio_digest(u.id): u.id for u in self.corpus.utterances}
        for other in others:
            theirs = next(iter(other.stores.values()))
            for u in other.corpus.utterances:
                if same := own.get(theirs.audio_digest(u.id)):
                    raise ValueError(
                        f"{u.id} of {other.corpus.name} is the same recording as {same} of "
                        f"{self.corpus.name}: pre-training would hear test speakers; leave it out"
                    )
        study = replace(self, beside=others)
        study.__dict__["_data"] = self._data
        return study

    def of_views(self, names: Iterable[str]) -> "Study":
        """The same study with these of its views alone."""
        names = tuple(names)
        views, stores = ({name: of[name] for name in names} for of in (self.views, self.stores))
        return replace(self, views=views, stores=stores)

    def subset(self, run: "Task | Probe") -> tuple[Utterance, ...]:
        """The labelled training utterances of a repeat: the same for every method and view."""
        return labelled_subset(
            self.folds[run.fold].train,
            self.corpus,
            fraction=None if run.per_class else run.fraction,
            per_class=run.per_class,
            repeat=run.repeat,
            seed=self.seed,
        )

    def networks(self) -> PretrainingNetworks:
        """What pre-training trains."""
        encoders = self.settings.encoders
        views = tuple((name, view.encoder(encoders)) for name, view in self.views.items())
        return PretrainingNetworks(views, ProjectionHead(initial=encoders.init))

    def model(self, view: str) -> ClassifierNetwork:
        """What fine-tuning trains."""
        encoders = self.settings.encoders
        classifier = Classifier(len(self.corpus.classes), initial=encoders.init)
        return ClassifierNetwork(view, self.views[view].encoder(encoders), classifier)

    def about(self, fold: int, views: Iterable[str]) -> dict[str, Any]:
        """What encoders of these views are about: a checkpoint of anything else is refused."""
        return {
            "corpus": self.corpus.name,
            "utterances and sessions": self.corpus_digest,
            "fold": fold,
            "normalise": self.settings.normalise,
            "encoders": asdict(self.settings.encoders),
        } | {f"{view} features": digest(dict(self.views[view].describe())) for view in views}

    def pretraining_folder(self, fold: int) -> Path:
        """Where the pre-training of a fold lies, or will lie."""
        about = self.about(fold, self.views)
        beside = [_audio(other.corpus, other.stores) for other in self.beside]
        how = self.settings.pretraining, self.settings.precision
        name = digest(about, list(self.views), how, self.seed, beside)
        return self.runs / self.corpus.name / f"pretrain-fold{fold}-{'+'.join(self.views)}-{name}"

    def folder(self, run: Pretrain | Task | Probe) -> Path:
        """Where a run lies, or will lie."""
        if isinstance(run, Pretrain):
            return self.pretraining_folder(run.fold)
        about = self.about(run.fold, [run.view])
        source = None if run.pretrained is None else run.pretrained.name
        if isinstance(run, Probe):
            kind, how = "probe", run.method.removeprefix("probe-")
            name = digest(about, self.settings.precision, self.seed, source)
        else:
            kind = "finetune"
            how = ("frozen" if run.frozen else "tuned") if source else "supervised"
            training = self.settings.finetuning, self.settings.precision
            name = digest(about, training, self.seed, source, run.frozen)
        labels = f"n{run.per_class}" if run.per_class else f"p{100 * run.fraction:g}"
        label = f"{kind}-fold{run.fold}-{run.view}-{how}-{labels}-r{run.repeat}"
        return self.runs / self.corpus.name / f"{label}-{name}"

    def measured(self, kind: str, fold: int, views: Iterable[str], pretrained: Path) -> Path:
        """Where what an experiment measured of trained encoders lies, or will lie."""
        views = tuple(views)
        how = self.settings.finetuning, self.settings.precision
        name = digest(self.about(fold, views), how, self.seed, pretrained.name)
        return self.runs / self.corpus.name / f"{kind}-fold{fold}-{'-'.join(views)}-{name}"

    def done(self) -> dict[str, dict[str, Any]]:
        """The records there are, by run folder."""
        return {row["run"]: row for row in records.read(self.runs)}

    def relative(self, folder: Path) -> str:
        """A run's folder as records name it."""
        return str(folder.relative_to(self.runs))

    def record(self, folder: Path, **values: Any) -> Mapping[str, Any]:
        """Append the record of a finished run."""
        labels = [self.corpus.label(u) for u in self.corpus.utterances]
        alike = Pretraining()
        pretraining = replace(
            self.settings.pretraining,
            temperature=alike.temperature,
            subset=alike.subset,
            utterances=alike.utterances,
        )
        record = Record(
            experiment=self.experiment,
            corpus=self.corpus.name,
            synthetic=self.corpus.synthetic,
            seed=self.seed,
            classes=self.corpus.classes,
            counts=tuple(map(labels.count, range(len(self.corpus.classes)))),
            utterances=len(labels),
            normalise=self.settings.normalise,
            protocol=digest(replace(self.settings, pretraining=pretraining)),
            versions=records.versions(),
            device=records.device(),
            config_digest=folder.name.rsplit("-", 1)[-1],
            run=self.relative(folder),
            **values,
        )
        records.append(self.runs, record)
        return asdict(record)


def _audio(corpus: Corpus, stores: Mapping[str, Store]) -> list[str]:
    """Name and digest of what another corpus brings."""
    store = next(iter(stores.values()))
    return [corpus.name, digest([(u.id, store.audio_digest(u.id)) for u in corpus.utterances])]


def open_study(
    corpus: Corpus,
    views: Mapping[str, View],
    settings: Settings,
    extraction: Extraction,
    *,
    runs: Path,
    seed: int,
    devices: int | None = None,
    experiment: str = "study",
    resident: float = 0.5,
) -> Study:
    """A study of what an extraction left, on so many devices.

    Raises:
        CorpusError: the corpus has no five folds.
    """
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
        resident,
    )
    _ = study.folds  # a corpus without folds is an error now, not after an hour
    return study
